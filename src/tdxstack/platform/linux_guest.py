"""What a TD's guest asks of its kernel, by the interfaces that are the same on hardware and on a software platform.

=============== ============================================================== ==============================
what            interface                                                      source
=============== ============================================================== ==============================
TDREPORT        ``/dev/tdx_guest``, ioctl TDX_CMD_GET_REPORT0                  linux/tdx-guest.h
quote           configfs-tsm, vsock to the QGS, or an ioctl                    :mod:`.linux_guest_quote`
event log       ``/sys/firmware/acpi/tables/CCEL`` and ``data/CCEL``           ACPI 6.5, 5.2.34
RTMR            ``/sys/.../misc/tdx_guest/measurements`` (Linux 6.16)          sysfs-devices-virtual-misc-tdx_guest
IMA list        ``/sys/kernel/security/ima``                                   ima_policy
=============== ============================================================== ==============================

Every error names the hop that failed and the next thing to look at.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from tdxstack.errors import PlatformMissing, SystemFault, UsageError

REPORT_DATA_SIZE = 64
REPORT_SIZE = 1024
DIGEST_SIZE = 48
RTMR_COUNT = 4
#: _IOWR('T', 1, struct tdx_report_req)
TDX_CMD_GET_REPORT0 = 0xC4405401
#: MRTD and RTMR0 in TDREPORT_STRUCT.
_MRTD = 512 + 16
_RTMR0 = 512 + 208
#: Where the software platform's channel is found, if this guest runs on one.
_SOFTWARE_PORT = "org.tdxstack.tdx.0"
_MAX_FILE = 64 << 20

_NO_TD = "this machine is not a TD, or its kernel lacks the driver: modprobe tdx_guest; dmesg | grep -i tdx"


@dataclass(frozen=True, slots=True)
class GuestPaths:
    """Where the kernel's interfaces are. Tests use a tree of their own."""

    root: Path = Path("/")

    @property
    def device(self) -> Path:
        return self.root / "dev/tdx_guest"

    @property
    def reports(self) -> Path:
        return self.root / "sys/kernel/config/tsm/report"

    @property
    def tables(self) -> Path:
        return self.root / "sys/firmware/acpi/tables"

    @property
    def ima(self) -> Path:
        return self.root / "sys/kernel/security/ima"

    @property
    def attest_conf(self) -> Path:
        return self.root / "etc/tdx-attest.conf"

    @property
    def measurements(self) -> tuple[Path, Path]:
        """Both names of the registers' directory; the first that is there is used."""
        below = "misc/tdx_guest/measurements"
        return self.root / "sys/devices/virtual" / below, self.root / "sys/class" / below


REAL = GuestPaths()


@dataclass(frozen=True, slots=True)
class Registers:
    """MRTD and RTMR0..3, 48 bytes each; ``source`` says by which interface they were read."""

    mrtd: bytes
    rtmrs: tuple[bytes, ...]
    source: str


@dataclass(frozen=True, slots=True)
class CcLog:
    """The ACPI table CCEL and the log area that goes with it."""

    table: bytes
    data: bytes


def is_protected(paths: GuestPaths = REAL) -> bool:
    """Whether the CPU says that this is a TD, and its host not trusted; no device of the host can deny it."""
    flags = next((line for line in _text(paths.root / "proc/cpuinfo").splitlines() if line.startswith("flags")), "")
    return "tdx_guest" in flags.split()


def platform_kind(paths: GuestPaths = REAL) -> str:
    """``software``, ``tdx``, or ``none`` if this machine is no TD as far as can be seen."""
    for entry in (paths.root / "sys/class/virtio-ports").glob("*/name"):
        if _text(entry) == _SOFTWARE_PORT:
            return "software"
    return "tdx" if is_protected(paths) or paths.device.exists() else "none"


def report(report_data: bytes, paths: GuestPaths = REAL) -> bytes:
    """TDREPORT_STRUCT (1024 bytes) over 64 bytes of REPORTDATA.

    Raises:
        PlatformMissing: no TDX guest device, or no permission.
        SystemFault: the TDX module refused.
    """
    if len(report_data) != REPORT_DATA_SIZE:
        raise UsageError(f"REPORTDATA has {len(report_data)} bytes, not {REPORT_DATA_SIZE}")
    device = open_device(paths)
    try:
        answer = ioctl(device, TDX_CMD_GET_REPORT0, report_data + bytes(REPORT_SIZE))
    except OSError as error:
        reason = f"TDREPORT: ioctl TDX_CMD_GET_REPORT0 on {paths.device}: {error.strerror}"
        raise SystemFault(reason, hint="dmesg | grep -i tdx") from error
    finally:
        os.close(device)
    return answer[REPORT_DATA_SIZE:]


def ioctl(descriptor: int, command: int, data: bytes) -> bytes:
    """ioctl(2) on a copy of ``data``; return the copy.

    ``fcntl.ioctl`` keeps the interpreter's lock while it waits where the argument is longer than 1024 bytes; on a
    software platform the answer comes from another thread of this process.

    Raises:
        OSError: the driver refused.
    """
    import ctypes

    buffer = ctypes.create_string_buffer(data, len(data))
    if ctypes.CDLL(None, use_errno=True).ioctl(descriptor, ctypes.c_ulong(command), buffer) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return buffer.raw


def open_device(paths: GuestPaths = REAL) -> int:
    """A descriptor of the TDX guest device.

    Raises:
        PlatformMissing: it is not there, or not for this user.
    """
    try:
        return os.open(paths.device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise PlatformMissing(
            f"TDREPORT: {paths.device}: {error.strerror}", hint=_device_hint(error, paths)
        ) from error


def _device_hint(error: OSError, paths: GuestPaths) -> str:
    if error.errno == errno.EACCES:
        return "run it as root, or let your user read and write the device"
    if platform_kind(paths) == "software":
        return "systemctl status tdxstack-guest    (it makes the device of a software TD)"
    return _NO_TD


def event_log(paths: GuestPaths = REAL) -> CcLog:
    """The CC event log of this boot.

    Raises:
        PlatformMissing: this firmware left none, or no permission.
    """
    table, data = paths.tables / "CCEL", paths.tables / "data" / "CCEL"
    try:
        return CcLog(_content(table), _content(data))
    except OSError as error:
        hint = "run it as root" if error.errno == errno.EACCES else _log_hint(paths)
        raise PlatformMissing(f"CC event log: {error.filename}: {error.strerror}", hint=hint) from error


def _log_hint(paths: GuestPaths) -> str:
    if platform_kind(paths) == "software":
        return "tdxctl guest check    (says why none was made)"
    if not paths.device.exists():
        return _NO_TD
    return "the firmware did not measure: it needs TdTcg2Dxe (edk2-stable202408 or later)"


def registers(paths: GuestPaths = REAL) -> Registers:
    """MRTD and RTMRs, from sysfs where the kernel has them there, else out of a TDREPORT.

    Raises:
        PlatformMissing, SystemFault: neither could be read.
    """
    folder = measurements_folder(paths)
    if folder is not None:
        try:
            rtmrs = tuple(_content(folder / f"rtmr{index}:sha384") for index in range(RTMR_COUNT))
            return Registers(_content(folder / "mrtd:sha384"), rtmrs, str(folder))
        except OSError as error:
            raise SystemFault(f"RTMR: {error.filename}: {error.strerror}", hint="dmesg | grep -i tdx") from error
    data = report(bytes(REPORT_DATA_SIZE), paths)
    starts = [_RTMR0 + DIGEST_SIZE * index for index in range(RTMR_COUNT)]
    values = tuple(data[start : start + DIGEST_SIZE] for start in starts)
    return Registers(data[_MRTD : _MRTD + DIGEST_SIZE], values, str(paths.device))


def extend(index: int, digest: bytes, paths: GuestPaths = REAL) -> bytes:
    """Extend an RTMR by a SHA-384 digest; return its new value.

    Raises:
        UsageError: no such register, or no such digest.
        PlatformMissing: this kernel cannot extend from user space.
        SystemFault: the kernel or the TDX module refused.
    """
    if not 0 <= index < RTMR_COUNT or len(digest) != DIGEST_SIZE:
        raise UsageError(f"RTMR{index} by {len(digest)} bytes: it takes an index of 0..3 and 48 bytes")
    folder = measurements_folder(paths)
    if folder is None:
        raise PlatformMissing(
            f"RTMR{index}: this kernel has no {paths.measurements[0]}",
            hint="extending from user space needs Linux 6.16 or later; uname -r",
        )
    target = folder / f"rtmr{index}:sha384"
    try:
        descriptor = os.open(target, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.write(descriptor, digest)
        finally:
            os.close(descriptor)
        return _content(target)
    except OSError as error:
        hint = "run it as root" if error.errno == errno.EACCES else "dmesg | grep -i tdx"
        raise SystemFault(f"RTMR{index}: {target}: {error.strerror}", hint=hint) from error


def measurements_folder(paths: GuestPaths = REAL) -> Path | None:
    """The directory of the measurement registers, or None if this kernel has none."""
    return next((folder for folder in paths.measurements if folder.is_dir()), None)


def ima_list(paths: GuestPaths = REAL) -> tuple[bytes, bytes]:
    """(ascii, binary) run-time measurement list.

    Raises:
        PlatformMissing: this kernel has no IMA, or no permission.
    """
    names = ("ascii_runtime_measurements", "binary_runtime_measurements")
    try:
        ascii_list, binary_list = (_content(paths.ima / name) for name in names)
    except OSError as error:
        hint = "run it as root; IMA needs securityfs mounted and CONFIG_IMA"
        raise PlatformMissing(f"IMA list: {error.filename}: {error.strerror}", hint=hint) from error
    return ascii_list, binary_list


def _content(path: Path) -> bytes:
    with path.open("rb", buffering=0) as stream:
        parts = []
        total = 0
        while chunk := stream.read(1 << 20):
            parts.append(chunk)
            total += len(chunk)
            if total > _MAX_FILE:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return b"".join(parts)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
