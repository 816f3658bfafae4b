# ruff: noqa: E501
"""The catalogue of captured hosts under ``tests/vectors/hosts``: made here, committed, and compared by a test.

``python tests/host_trees.py`` writes the trees anew. A case is a good host of one world with edits; ``expected`` names
each check that does not pass, with its outcome.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

Tree = dict[str, bytes]
HOSTS = Path(__file__).resolve().parent / "vectors" / "hosts"
GUID = bytes.fromhex("35657ae44a989847865e4685a7bf8ec2")
TDVF = b"a stand-in for a TDVF; what makes it one is its metadata GUID: " + GUID + bytes(64)
FLAGS = "fpu vme msr pae mce cx8 apic sep mtrr vmx smx sse sse2 sgx sgx_lc movdir64b"
DCAP = {
    "libsgx-dcap-default-qpl": "1.22.100.3-noble1",
    "tdx-qgs": "1.22.100.3-noble1",
    "sgx-dcap-pccs": "1.22.100.3-noble1",
}


@dataclass(frozen=True)
class Case:
    """A tree: its base, edits, what it shows, and the checks that must not pass."""

    name: str
    shows: str
    base: Callable[[], Tree]
    edit: Callable[[Tree], None] = lambda tree: None
    expected: dict[str, str] = field(default_factory=dict)
    exit: int = 0

    def build(self) -> Tree:
        tree = self.base()
        self.edit(tree)
        about = {"shows": self.shows, "not_passing": self.expected, "exit": self.exit}
        tree["expected.json"] = (json.dumps(about, indent=2) + "\n").encode()
        return tree


def structure(kind: int, handle: int, body: bytes, strings: tuple[str, ...]) -> bytes:
    """One SMBIOS structure."""
    text = b"".join(one.encode() + b"\0" for one in strings) or b"\0"
    return struct.pack("<BBH", kind, 4 + len(body), handle) + body + text + b"\0"


def dimm(handle: int, locator: str, bank: str, size_gib: int, *, kind: int = 0x22, total: int = 80) -> bytes:
    """A memory device (type 17) of SMBIOS 3.3."""
    size, extended = (0x7FFF, size_gib * 1024) if size_gib >= 32 else (size_gib * 1024, 0)
    body = struct.pack(
        "<HHHHHBBBBBHHBBBBBIHHHHBH",
        0x1000,
        0xFFFE,
        total,
        64,
        size,
        9,
        0,
        1,
        2,
        kind,
        1 << 13,
        4800,
        3,
        4,
        5,
        6,
        2,
        extended,
        4800,
        1100,
        1100,
        1100,
        3,
        0,
    )
    return structure(17, handle, body, (locator, bank, "Example", "SERIAL-0001", "ASSET-0001", "EX-DDR5-32G"))


def smbios(populated: Callable[[int, str, int], int], *, manufacturer: str = "Example Corp") -> bytes:
    """A table of two sockets with eight channels of two slots; ``populated`` gives a slot's size in GiB."""
    parts = [
        structure(0, 0, bytes([1, 2, 0, 0, 3]) + bytes(13), ("Example BIOS", "2.4.0", "01/15/2026")),
        structure(
            1,
            1,
            bytes([1, 2, 3, 4]) + bytes(range(16)) + bytes([6, 5, 6]),
            (manufacturer, "TDX Server", "1", "SERIAL-SYSTEM", "SKU", "Family"),
        ),
    ]
    handle = 0x1100
    for socket in (0, 1):
        for number, channel in enumerate("ABCDEFGH"):
            for slot in (1, 2):
                bank = f"NODE {socket} CHANNEL {number} DIMM {slot - 1}"
                parts.append(
                    dimm(handle, f"CPU{socket}_DIMM_{channel}{slot}", bank, populated(socket, channel, slot))
                )
                handle += 1
    return b"".join([*parts, structure(127, 0x7FFF, b"", ())])


def cpuinfo(
    *,
    vendor: str = "GenuineIntel",
    model: int = 0xCF,
    flags: str = FLAGS,
    name: str = "INTEL(R) XEON(R) PLATINUM 8580",
) -> bytes:
    blocks = [
        f"processor\t: {number}\nvendor_id\t: {vendor}\ncpu family\t: 6\nmodel\t\t: {model}\nmodel name\t: {name}\n"
        f"stepping\t: 2\nmicrocode\t: 0x210002a9\nphysical id\t: {number}\nflags\t\t: {flags}\n"
        for number in (0, 1)
    ]
    return ("\n".join(blocks) + "\n").encode()


def registers(**changes: int) -> bytes:
    """MSRs of a host that is set up for TDX; ``changes`` are by number, like ``x1401=0``."""
    values = {
        0x3A: 0x60005, 0x87: 0x3F << 32 | 0x40, 0xA0: 0, 0xCE: 0x8080_0C3D_F011_1C00 & ~(1 << 27), 0xFE: 0x9D0A, 0x500: 0x11 << 56,
        0x981: 0x7F << 36 | 6 << 32 | 0x8000_0005, 0x982: 1 << 48 | 7 << 32 | 0x8000_0002 | 1, 0x1400: 0x3FFE000008, 0x1401: 0x3FFFFFE000C00,
    }  # fmt: skip
    values |= {int(name[1:], 16): value for name, value in changes.items()}
    table = {hex(number): {"0": hex(value), "1": hex(value)} for number, value in values.items() if value >= 0}
    return encoded(table)


def encoded(value: object) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def dpkg(packages: dict[str, str]) -> bytes:
    blocks = (
        f"Package: {name}\nStatus: install ok installed\nVersion: {version}\n" for name, version in packages.items()
    )
    return "\n".join(blocks).encode()


QCNL = b"""{
  // PCCS server address
  "pccs_url": "https://localhost:8081/sgx/certification/v4/"
  // To accept insecure HTTPS certificate, set this option to false
  ,"use_secure_cert": false
  ,"retry_times": 6
}
"""
PCCS = {
    "HTTPS_PORT": 8081,
    "uri": "https://api.trustedservices.intel.com/sgx/certification/v4/",
    "CachingFillMode": "LAZY",
}
REGISTERED = """[04-06-2026 03:05:53] INFO: SGX Registration Agent version: 1.22.100.3
[04-06-2026 03:05:53] INFO: Starts Registration Agent Flow.
[04-06-2026 03:05:54] INFO: Registration Flow - PLATFORM_ESTABLISHMENT or TCB_RECOVERY passed successfully.
[04-06-2026 03:05:54] INFO: Finished Registration Agent Flow.
"""
NOT_REGISTERED = """[03-06-2026 02:50:04] INFO: SGX Registration Agent version: 1.22.100.3
[03-06-2026 02:50:04] INFO: Starts Registration Agent Flow.
[03-06-2026 02:50:04] INFO: Platform registration request (PLATFORM_MANIFEST) won't be send to Registration Server.
[03-06-2026 02:50:04] INFO: Finished Registration Agent Flow.
"""
LOG_UPSTREAM = """[    0.000000] Linux version 6.17.0-5-generic (buildd@host) #5-Ubuntu SMP
[    1.398899] virt/tdx: BIOS enabled: private KeyID range [64, 127)
[    1.398902] virt/tdx: Disable ACPI S3. Turn off TDX in the BIOS to use ACPI S3.
[    6.367710] virt/tdx: TDX module 1.5.16.00, build number 1067, build date 0134fed5
[    6.367714] virt/tdx: CMR: [0x100000, 0x77800000)
[    6.367716] virt/tdx: CMR: [0x100000000, 0x2076000000)
[    6.791305] virt/tdx: 525320 KB allocated for PAMT
[    6.791312] virt/tdx: module initialized
"""
LOG_1_5 = """[    0.000000] Linux version 6.2.16-mvp30v3+7-generic (root@builder) #1 SMP
[   25.183801] tdx: BIOS enabled: private KeyID range [64, 127)
[   26.183842] tdx: TDX module: attributes 0x0, vendor_id 0x8086, major_version 1, minor_version 5, build_date 20240129, build_num 698
[   26.184252] tdx: TDX module: features0: fbf
[   26.707902] tdx: 131331 pages allocated for PAMT.
[   26.713246] tdx: TDX module initialized.
"""
CAPABILITIES = (
    "<domainCapabilities>\n  <features>\n    <tdx supported='yes'/>\n  </features>\n</domainCapabilities>\n"
)


def common() -> Tree:
    """What both worlds have."""
    digest = hashlib.md5(TDVF, usedforsecurity=False).hexdigest()
    services = dict.fromkeys(
        ("qgsd.service", "pccs.service", "libvirtd.service", "mpa_registration_tool.service"), "active"
    )
    texts = {
        "proc/sys/kernel/numa_balancing": "0\n",
        "proc/meminfo": "MemTotal:       527433216 kB\nMemAvailable:   500000000 kB\nHugePages_Total:       0\nHugepagesize:       2048 kB\n",
        "etc/group": "root:x:0:\nkvm:x:105:libvirt-qemu\n",
        "sys/power/disk": "[disabled]\n",
        "sys/module/kvm_intel/parameters/tdx": "Y\n",
        "sys/module/kvm_intel/parameters/ept": "Y\n",
        "sys/module/kvm/parameters/enable_virt_at_load": "Y\n",
        "sys/module/apparmor/parameters/enabled": "Y\n",
        "sys/module/vfio_iommu_type1/parameters/dma_entry_limit": "1000000\n",
        "sys/kernel/security/apparmor/profiles": "libvirtd (enforce)\n",
        "etc/apparmor.d/abstractions/libvirt-qemu": "  # rules of the package\n  /usr/share/ovmf/** rk,\n  /run/tdx-qgs/qgs.socket rw,\n",
        "etc/libvirt/qemu.conf": '#user = "root"\nuser = "libvirt-qemu"\ngroup = "kvm"\n',
        "var/log/mpa_registration.log": REGISTERED,
        "sys/fs/cgroup/misc.capacity": "tdx 62\n",
        "sys/fs/cgroup/misc.current": "tdx 3\n",
    }  # fmt: skip
    return {
        **{path: text.encode() for path, text in texts.items()},
        "proc/cpuinfo": cpuinfo(),
        "sys/firmware/dmi/tables/DMI": smbios(lambda socket, channel, slot: 32 if slot == 1 else 0),
        "etc/sgx_default_qcnl.conf": QCNL,
        "opt/intel/sgx-dcap-pccs/config/default.json": encoded(PCCS),
        "dev/sgx_enclave": b"",
        "dev/sgx_provision": b"",
        "dev/vhost-vsock": b"",
        "var/lib/dpkg/info/ovmf.md5sums": f"{digest}  usr/share/ovmf/OVMF.inteltdx.fd\n{digest}  usr/share/qemu/OVMF.fd\n".encode(),
        ".tdxstack/capture.json": encoded({"schema": "tdxstack/host-capture/v1", "cpus": 2, "privileged": True}),
        ".tdxstack/msr.json": registers(),
        ".tdxstack/services.json": encoded(services),
        ".tdxstack/domcapabilities.xml": CAPABILITIES.encode(),
    }


def upstream() -> Tree:
    """A good host of the upstream world: kernel 6.17, QEMU 11, libvirt 11.9."""
    packages = DCAP | {"qemu-system-x86": "1:11.0.0+ds-1", "libvirt-daemon-system": "11.9.0-1", "ovmf": "2026.02-1"}
    return common() | {
        "proc/cmdline": b"BOOT_IMAGE=/vmlinuz-6.17.0-5-generic root=/dev/sda2 ro kvm_intel.tdx=1 nohibernate numa_balancing=disable\n",
        "proc/sys/kernel/osrelease": b"6.17.0-5-generic\n",
        "proc/cpuinfo": cpuinfo(flags=f"{FLAGS} tdx_host_platform"),
        "etc/os-release": b'ID=ubuntu\nVERSION_ID="25.10"\nPRETTY_NAME="Ubuntu 25.10"\n',
        "sys/devices/faux/tdx_host/version": b"1.5.16\n",
        "sys/devices/faux/tdx_host/seamldr_version": b"2.0.00\n",
        "sys/devices/faux/tdx_host/num_remaining_updates": b"12\n",
        "usr/share/ovmf/OVMF.inteltdx.fd": TDVF,
        "var/run/tdx-qgs/qgs.socket": b"",
        "var/lib/dpkg/status": dpkg(packages),
        ".tdxstack/dmesg": LOG_UPSTREAM.encode(),
        ".tdxstack/qemu.json": encoded({"path": "/usr/bin/qemu-system-x86_64", "version": "11.0.0", "tdx_guest": ["attributes", "mrconfigid", "mrowner", "mrownerconfig", "quote-generation-socket", "sept-ve-disable"], "machines": ["q35"]}),
    }  # fmt: skip


def stack_1_5() -> Tree:
    """A good host of the 1.5 stack: kernel 6.2.16-mvp, QEMU 7.2, libvirt 8.6."""
    packages = DCAP | {
        "intel-mvp-tdx-qemu-kvm": "7.2.0-mvp21v3.8",
        "intel-mvp-tdx-libvirt": "8.6.0-mvp17v3.6",
        "intel-mvp-ovmf": "202302-ww27.2",
    }
    module = {"status": "initialized", "attributes": "0x00000000", "vendor_id": "0x00008086", "build_date": "20240129", "build_num": "0x000002ba", "major_version": "0x00000001", "minor_version": "0x00000005"}  # fmt: skip
    return common() | {
        "proc/cmdline": b"BOOT_IMAGE=/vmlinuz-6.2.16-mvp30v3+7-generic root=/dev/sda2 ro nohibernate numa_balancing=disable\n",
        "proc/sys/kernel/osrelease": b"6.2.16-mvp30v3+7-generic\n",
        "etc/os-release": b'ID=ubuntu\nVERSION_ID="22.04"\nPRETTY_NAME="Ubuntu 22.04.3 LTS"\n',
        **{f"sys/firmware/tdx/tdx_module/{name}": f"{value}\n".encode() for name, value in module.items()},
        "sys/firmware/tdx/keyid_num": b"63\n",
        "usr/share/qemu/OVMF.fd": TDVF,
        "etc/qgs.conf": b"port = 4050\nnumber_threads = 4\n",
        "var/lib/dpkg/status": dpkg(packages),
        ".tdxstack/dmesg": LOG_1_5.encode(),
        ".tdxstack/qemu.json": encoded({"path": "/usr/bin/qemu-system-x86_64", "version": "7.2.0", "tdx_guest": ["debug", "migtd-attr", "migtd-hash", "migtd-pid", "mrconfigid", "mrowner", "mrownerconfig", "quote-generation-service", "sept-ve-disable", "vsockport"], "machines": ["q35"]}),
    }  # fmt: skip


def _replace(path: str, old: bytes, new: bytes) -> Callable[[Tree], None]:
    def edit(tree: Tree) -> None:
        assert old in tree[path], (path, old)
        tree[path] = tree[path].replace(old, new)

    return edit


def _half_configured(tree: Tree) -> None:
    tree[".tdxstack/msr.json"] = registers(x1401=0x3FFFFFE000000, x1400=0, x87=0x40)
    tree[".tdxstack/dmesg"] = (
        b"[    0.000000] Linux version 6.17.0-5-generic\n[   15.287540] virt/tdx: not enabled by BIOS.\n"
    )
    tree["sys/module/kvm_intel/parameters/tdx"] = b"N\n"
    tree["sys/fs/cgroup/misc.capacity"] = tree["sys/fs/cgroup/misc.current"] = b""
    _no_module(tree)


def _no_module(tree: Tree) -> None:
    for name in ("version", "seamldr_version", "num_remaining_updates"):
        tree.pop(f"sys/devices/faux/tdx_host/{name}", None)
    tree[".tdxstack/domcapabilities.xml"] = CAPABILITIES.replace("yes", "no").encode()


def _old_module(tree: Tree) -> None:
    _no_module(tree)
    tree["sys/module/kvm_intel/parameters/tdx"] = b"N\n"
    head = "\n".join(LOG_UPSTREAM.splitlines()[:3])
    tree[".tdxstack/dmesg"] = (
        f"{head}\n[   19.324236] virt/tdx: SEAMCALL (0x0000000000000022) failed: 0xc000050500000000\n[   19.324250] virt/tdx: module initialization failed (-5)\n".encode()
    )


def _not_loaded(tree: Tree) -> None:
    _no_module(tree)
    tree[".tdxstack/msr.json"] = registers(x1401=0x3FFFFFE000800)
    tree["sys/module/kvm_intel/parameters/tdx"] = b"N\n"
    tree["sys/firmware/dmi/tables/DMI"] = smbios(
        lambda socket, channel, slot: 32 if slot == 1 else 0, manufacturer="Dell Inc."
    )
    head = "\n".join(LOG_UPSTREAM.splitlines()[:3])
    tree[".tdxstack/dmesg"] = f"{head}\n[   19.324236] virt/tdx: module not loaded\n".encode()


def _exhausted(tree: Tree) -> None:
    _no_module(tree)
    tree["proc/sys/kernel/osrelease"] = b"6.8.0-1028-intel\n"
    tree["sys/module/kvm_intel/parameters/tdx"] = b"N\n"
    log = LOG_UPSTREAM.replace("6.17.0-5-generic", "6.8.0-1028-intel").splitlines()[:6]
    log[3] = (
        "[    6.367710] virt/tdx: TDX module: attributes 0x0, vendor_id 0x8086, major_version 1, minor_version 5, build_date 20240725, build_num 784"
    )
    log.append("[    6.400000] virt/tdx: initialization failed: TDMR [0x0, 0x80000000): reserved areas exhausted.")
    log.append("[    6.400010] virt/tdx: module initialization failed (-28)")
    tree[".tdxstack/dmesg"] = ("\n".join(log) + "\n").encode()


def _qemu(tree: Tree, **changes: object) -> None:
    tree[".tdxstack/qemu.json"] = encoded(json.loads(tree[".tdxstack/qemu.json"]) | changes)


def _swapped_qemu(tree: Tree) -> None:
    _qemu(tree, version="8.2.2", tdx_guest=None)
    tree["var/lib/dpkg/status"] = tree["var/lib/dpkg/status"].replace(b"1:11.0.0+ds-1", b"1:8.2.2+ds-0ubuntu1")
    tree[".tdxstack/domcapabilities.xml"] = CAPABILITIES.replace("yes", "no").encode()


def _drifted(tree: Tree) -> None:
    tree[".tdxstack/qemu.json"] = stack_1_5()[".tdxstack/qemu.json"]


def _pre_production(tree: Tree) -> None:
    tree[".tdxstack/msr.json"] = registers(xCE=0x8080_0C3D_F811_1C00)


def _self_signed(tree: Tree) -> None:
    tree["etc/sgx_default_qcnl.conf"] = QCNL.replace(b"false", b"true")


def _vsock_only(tree: Tree) -> None:
    tree["etc/qgs.conf"] = b"port = 4050\nnumber_threads = 4\n"
    del tree["var/run/tdx-qgs/qgs.socket"]


def _other_firmware(tree: Tree) -> None:
    tree["usr/share/ovmf/OVMF.inteltdx.fd"] = TDVF + b"another build"


def _measures_nothing(tree: Tree) -> None:
    digest = hashlib.md5(TDVF, usedforsecurity=False).hexdigest()
    facts = {
        "path": "/usr/share/ovmf/OVMF.inteltdx.fd",
        "tdvf": True,
        "md5": digest,
        "measures": False,
        "release": "202211",
    }
    tree[".tdxstack/firmware.json"] = encoded([facts])
    del tree["usr/share/ovmf/OVMF.inteltdx.fd"]


def _passt(tree: Tree) -> None:
    tree["var/lib/dpkg/status"] += b"\n" + dpkg({"libguestfs-tools": "1:1.52.0-5", "passt": "0.0~git20240220"})
    tree["sys/kernel/security/apparmor/profiles"] += b"passt (enforce)\n"


def _apparmor(tree: Tree) -> None:
    tree["etc/apparmor.d/abstractions/libvirt-qemu"] = b"  # /usr/share/ovmf/** rk,\n  /dev/kvm rw,\n"


def _no_keys(tree: Tree) -> None:
    tree["sys/fs/cgroup/misc.current"] = b"tdx 62\n"
    tree["sys/module/vfio_iommu_type1/parameters/dma_entry_limit"] = b"65535\n"


def _reboot(tree: Tree) -> None:
    _qemu(tree, version="10.1.0")
    tree["var/lib/dpkg/status"] = tree["var/lib/dpkg/status"].replace(b"1:11.0.0+ds-1", b"1:10.1.0+ds-5")
    tree["etc/libvirt/qemu/td1.xml"] = (
        b"<domain type='kvm'>\n  <name>td1</name>\n  <on_reboot>destroy</on_reboot>\n  <launchSecurity type='tdx'/>\n</domain>\n"
    )


def _virtual(tree: Tree) -> None:
    tree["proc/cpuinfo"] = cpuinfo(flags=f"{FLAGS} hypervisor")


def _amd(tree: Tree) -> None:
    tree["proc/cpuinfo"] = cpuinfo(vendor="AuthenticAMD", name="AMD EPYC 9654", model=0x11)


def _four_dimms(tree: Tree) -> None:
    tree["sys/firmware/dmi/tables/DMI"] = smbios(
        lambda socket, channel, slot: 32 if slot == 1 and channel in "ACEG" else 0
    )


def _one_dimm_short(tree: Tree) -> None:
    full = lambda socket, channel, slot: 0 if (socket, channel, slot) == (1, "D", 2) else 32  # noqa: E731
    tree["sys/firmware/dmi/tables/DMI"] = smbios(full)


FAIL, WARN = "fail", "warn"
CASES = (
    Case("good-upstream", "a good host: kernel 6.17, QEMU 11, libvirt 11.9", upstream),
    Case("good-1.5", "a good host of the 1.5 stack: kernel 6.2.16-mvp, QEMU 7.2, libvirt 8.6", stack_1_5, expected={"qemu.reboot": WARN}),
    Case("problem-01-bios-half-configured", "TDX is off in the BIOS: 'not enabled by BIOS'", upstream, _half_configured, {"firmware.tdx": FAIL, "kernel.kvm_tdx": FAIL, "module.loaded": FAIL, "libvirt.tdx": FAIL, "capacity.keyids": FAIL, "logs.signs": FAIL}, 1),
    Case("problem-02-old-module", "an old module: SEAMCALL 0x22 failed 0xc000050500000000", upstream, _old_module, {"module.initialized": FAIL, "kernel.kvm_tdx": FAIL, "libvirt.tdx": FAIL, "logs.signs": FAIL}, 1),
    Case("problem-03-module-not-loaded", "no P-SEAMLDR in the BIOS: lock bit 0, 'module not loaded'", upstream, _not_loaded, {"firmware.seamrr_lock": FAIL, "module.loaded": FAIL, "kernel.kvm_tdx": FAIL, "libvirt.tdx": FAIL, "logs.signs": FAIL}, 1),
    Case("problem-04-reserved-areas-exhausted", "'reserved areas exhausted' with kernel 6.8", upstream, _exhausted, {"module.memory_layout": FAIL, "kernel.known_bad": FAIL, "module.initialized": FAIL, "kernel.kvm_tdx": FAIL, "libvirt.tdx": FAIL, "logs.signs": FAIL}, 1),
    Case("problem-05-qemu-swapped", "apt put a QEMU without TDX in place", upstream, _swapped_qemu, {"qemu.tdx_guest": FAIL, "qemu.reboot": WARN, "libvirt.tdx": FAIL}, 1),
    Case("problem-06-property-drift", "QEMU of the 1.5 stack on an upstream kernel with a new libvirt", upstream, _drifted, {"qemu.same_stack": FAIL, "libvirt.matches_qemu": FAIL, "qemu.reboot": WARN}, 1),
    Case("problem-07-qgs-misrouted", "QGS listens on vsock, libvirt looks for its socket: 'Failed to get the quote'", upstream, _vsock_only, {"attestation.qgs_transport": FAIL}, 1),
    Case("problem-08-pccs-tls", "use_secure_cert with a self-signed PCCS: 0xb033, CURL 60", upstream, _self_signed, {"attestation.qcnl_tls": FAIL}, 1),
    Case("problem-09-not-registered", "the platform is not registered: 0xb010, 0xe047", upstream, _replace("var/log/mpa_registration.log", REGISTERED.encode(), NOT_REGISTERED.encode()), {"attestation.registration": FAIL, "logs.signs": FAIL}, 1),
    Case("problem-10-pre-production", "a pre-production part with the production service: 0xe022", upstream, _pre_production, {"cpu.production": FAIL, "attestation.environment": FAIL}, 1),
    Case("problem-11-reboot", "QEMU 10.1 ends when the TD reboots, and libvirt is told to let it go", upstream, _reboot, {"qemu.reboot": WARN, "libvirt.on_reboot": FAIL}, 1),
    Case("problem-12-rtmr-mismatch", "the firmware is not its package's: RTMR mismatch", upstream, _other_firmware, {"ovmf.unmodified": FAIL}, 1),
    Case("problem-13-image-creation", "libguestfs with a confined passt", upstream, _passt, {"images.passt": FAIL}, 1),
    Case("problem-14-apparmor", "AppArmor denies the loader and the QGS socket", upstream, _apparmor, {"confinement.apparmor": FAIL}, 1),
    Case("problem-15-capacity", "all KeyIDs are in use, and dma_entry_limit is at its default", upstream, _no_keys, {"capacity.keyids": FAIL, "capacity.vfio": WARN}, 1),
    Case("firmware-measures-nothing", "an OVMF with TDX metadata and without TdTcg2Dxe: all registers stay zero", upstream, _measures_nothing, {"ovmf.measures": FAIL}, 1),
    Case("not-a-host-amd", "an AMD machine", upstream, _amd, {"cpu.vendor": FAIL}, 4),
    Case("not-a-host-virtual", "a virtual machine", upstream, _virtual, {"cpu.bare_metal": FAIL}, 4),
    Case("dimms-4-of-8", "half of the channels are empty", upstream, _four_dimms, {"memory.slot_zero": FAIL, "memory.symmetric": FAIL}, 1),
    Case("dimms-not-symmetric", "31 of 32 slots are filled", upstream, _one_dimm_short, {"memory.symmetric": FAIL}, 1),
)  # fmt: skip


def write(directory: Path) -> None:
    """Write all trees under ``directory``, in place of those there."""
    for case in CASES:
        shutil.rmtree(directory / case.name, ignore_errors=True)
        for path, content in case.build().items():
            target = directory / case.name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


if __name__ == "__main__":
    write(HOSTS)
