"""Inside a TD: is it one, and can it report, log and quote."""

from __future__ import annotations

from tdxstack.platform.linux_host_files import HostReadError
from tdxstack.preflight import facts
from tdxstack.preflight.host import Host
from tdxstack.preflight.model import Check, Finding, failed, judged, passed, warned

#: The virtio-serial port of the software platform: where it is, the TDX interfaces are emulated.
SOFTWARE_PORT = "/dev/virtio-ports/org.tdxstack.tdx.0"
CCEL = "/sys/firmware/acpi/tables/CCEL"
CCEL_DATA = "/sys/firmware/acpi/tables/data/CCEL"
MEASUREMENTS = ("/sys/devices/virtual/misc/tdx_guest/measurements", "/sys/class/misc/tdx_guest/measurements")
REGISTERS = ("mrtd:sha384", "rtmr0:sha384", "rtmr1:sha384", "rtmr2:sha384", "rtmr3:sha384")


def _is_td(host: Host) -> Finding:
    if "tdx_guest" in host.cpu.flags:
        return passed("/proc/cpuinfo: flag tdx_guest")
    if host.files.exists(SOFTWARE_PORT):
        return passed(f"{SOFTWARE_PORT}: a TD of the software platform, which protects nothing")
    return failed(f"/proc/cpuinfo: no flag tdx_guest; {SOFTWARE_PORT} is absent")


def _device(host: Host) -> Finding:
    return judged(host.files.exists("/dev/tdx_guest"), "/dev/tdx_guest")


def _configfs(host: Host) -> Finding:
    path = "/sys/kernel/config/tsm/report"
    return judged(host.files.exists(path), path)


def _ccel(host: Host) -> Finding:
    table = host.files.read(CCEL, limit=4096)
    if len(table) != 56 or table[:4] != b"CCEL":
        return failed(f"{CCEL}: {len(table)} bytes that begin with {table[:4]!r}, no CCEL table")
    data = host.files.read(CCEL_DATA, limit=1 << 20)
    return judged(len(data) > 32, f"{CCEL}: type {table[36]}; {CCEL_DATA}: {len(data)} bytes")


def _measurements(host: Host) -> Finding:
    for directory in MEASUREMENTS:
        found = host.files.names(directory)
        if found:
            missing = [name for name in REGISTERS if name not in found]
            return judged(
                not missing, f"{directory}: {len(found)} registers" + (f"; without {missing[0]}" if missing else "")
            )
    return warned(f"{MEASUREMENTS[0]} is absent")


def _kernel(host: Host) -> Finding:
    release = host.kernel
    return judged(facts.version(release) >= (6, 9), f"/proc/sys/kernel/osrelease: {release}")


def _log(host: Host) -> Finding:
    text = host.source.dmesg()
    if "tdx: Guest detected" in text:
        return passed("kernel log: tdx: Guest detected")
    if host.files.exists(SOFTWARE_PORT):
        return passed("kernel log: no 'tdx: Guest detected', as is so on the software platform")
    return failed("kernel log: no 'tdx: Guest detected'")


def _agent(host: Host) -> Finding:
    try:
        text = host.files.text("/etc/tdx-attest.conf")
    except HostReadError as error:
        if error.missing:
            return passed("/etc/tdx-attest.conf is absent: quotes go by configfs-tsm or the ioctl")
        raise
    values = [
        line.partition("=")[2].strip() for line in text.splitlines() if line.partition("=")[0].strip() == "port"
    ]
    if not values:
        return passed("/etc/tdx-attest.conf: no port: quotes go by configfs-tsm or the ioctl")
    return judged(values[-1].isdigit(), f"/etc/tdx-attest.conf: port = {values[-1]}: quotes go by vsock first")


CHILDREN = (
    Check(
        "guest.device",
        "TDX guest device",
        _device,
        "/dev/tdx_guest",
        "TD reports are made by its ioctl",
        "modprobe tdx_guest (kernel with CONFIG_TDX_GUEST_DRIVER)",
    ),
    Check(
        "guest.configfs",
        "configfs-tsm",
        _configfs,
        "/sys/kernel/config/tsm/report",
        "quotes are asked for here",
        "mount -t configfs none /sys/kernel/config; modprobe tsm (kernel 6.7 or later)",
    ),
    Check(
        "guest.ccel",
        "Event log (CCEL)",
        _ccel,
        "the ACPI table CCEL and its log",
        "without the log RTMR values cannot be explained",
        "boot with a TDVF; a plain OVMF writes no CCEL",
    ),
    Check(
        "guest.measurements",
        "Measurement registers in sysfs",
        _measurements,
        "mrtd and rtmr0..3",
        "registers can be read and extended here without privileges of the device",
        "kernel 6.16 or later; older ones extend by the device only",
        required=False,
    ),
    Check(
        "guest.kernel",
        "Kernel measures what it is given",
        _kernel,
        "Linux 6.9 or later",
        "earlier kernels do not measure command line and initrd on direct boot",
        "use a newer guest kernel, or boot by grub or a UKI",
        required=False,
    ),
    Check(
        "guest.log",
        "The kernel knows that it is in a TD",
        _log,
        "kernel log: tdx: Guest detected",
        "a kernel without CONFIG_INTEL_TDX_GUEST trusts the host's devices",
        "use a kernel with CONFIG_INTEL_TDX_GUEST=y",
    ),
    Check(
        "guest.agent",
        "Way of quotes",
        _agent,
        "a port number, or none",
        "libtdx_attest tries vsock first where a port is set",
        "remove port= from /etc/tdx-attest.conf",
        required=False,
    ),
)

GUEST = Check(
    "guest.td",
    "This is a trust domain",
    _is_td,
    "CPU flag tdx_guest, or the software platform's port",
    "the rest exists in a TD only",
    "start this machine as a TD: tdxctl td start",
    children=CHILDREN,
)
