# ruff: noqa: E501
"""The fifteen commonest problems as others would show them: other words, cases and places, in both worlds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hand_made import by_hand
from host_trees import CASES, QCNL, Tree, dpkg
from tdxstack.platform.linux_open_host import open_host
from tdxstack.preflight import report, tree
from tdxstack.preflight.host import Host

BY_NAME = {case.name: case for case in CASES}
UPSTREAM, OLD = "good-upstream", "good-1.5"
Edit = Callable[[Tree], object]
#: What is true of a host whose module never came up.
MODULE = ("sys/devices/faux/tdx_host/version", "sys/devices/faux/tdx_host/seamldr_version", "sys/devices/faux/tdx_host/num_remaining_updates")  # fmt: skip
HEAD = "[    0.000000] Linux version 6.17.0-5-generic\n[    1.398899] virt/tdx: BIOS enabled: private KeyID range [64, 127)\n"
HEAD_1_5 = "[    0.000000] Linux version 6.2.16-mvp30v3+7-generic\n[   25.183801] tdx: BIOS enabled: private KeyID range [64, 127)\n"


def without_module(made: Tree) -> None:
    for name in [*MODULE, *[path for path in made if path.startswith("sys/firmware/tdx/")]]:
        made.pop(name, None)
    made["sys/module/kvm_intel/parameters/tdx"] = b"N\n"


def log(*lines: str, head: str = HEAD) -> Edit:
    """The kernel log ends in these lines; no module is up."""

    def edit(made: Tree) -> None:
        without_module(made)
        made["dmesg"] = (head + "\n".join(lines) + "\n").encode()

    return edit


def status(value: str, *lines: str) -> Edit:
    def edit(made: Tree) -> None:
        made["sys/firmware/tdx/tdx_module/status"] = f"{value}\n".encode()
        made["dmesg"] = (HEAD_1_5 + "\n".join(lines) + "\n").encode()
        made["sys/module/kvm_intel/parameters/tdx"] = b"N\n"

    return edit


def put(path: str, content: str) -> Edit:
    return lambda made: made.__setitem__(path, content.encode())


def msr(line: str) -> Edit:
    def edit(made: Tree) -> None:
        register = line.split(":", maxsplit=1)[0].lower()
        kept = [one for one in made["msr.txt"].decode().splitlines() if not one.lower().startswith(f"{register}:")]
        made["msr.txt"] = "\n".join([*kept, line, ""]).encode()

    return edit


def replace(path: str, old: str, new: str) -> Edit:
    def edit(made: Tree) -> None:
        assert old.encode() in made[path], (path, old)
        made[path] = made[path].replace(old.encode(), new.encode())

    return edit


def both(*edits: Edit) -> Edit:
    def edit(made: Tree) -> None:
        for one in edits:
            one(made)

    return edit


def qemu_log(line: str) -> Edit:
    return put("var/log/libvirt/qemu/td1.log", f"2026-06-03 02:50:04.123+0000: starting up\n{line}\n2026-06-03 02:50:05.000+0000: shutting down\n")  # fmt: skip


def domain(inner: str, on_reboot: str = "restart") -> Edit:
    text = f"<domain type='kvm'>\n  <name>td1</name>\n  <on_reboot>{on_reboot}</on_reboot>\n  <launchSecurity type='tdx'>{inner}</launchSecurity>\n</domain>\n"
    return put("etc/libvirt/qemu/td1.xml", text)


MPA = "var/log/mpa_registration.log"
AUDIT = 'audit: type=1400 audit(1717380000.123:456): apparmor="DENIED" operation="open" class="file" profile="libvirt-6d3c0a2e" name="{}" pid=4242 comm="qemu-system-x86" requested_mask="{}" denied_mask="{}" fsuid=64055 ouid=0'
#: (problem, what is shown, base, edit, checks of which each must fail).
VARIANTS: tuple[tuple[int, str, str, Edit, tuple[str, ...]], ...] = (
    (1, "silence", UPSTREAM, log(), ("module.loaded",)),
    (1, "silence, 1.5", OLD, log(head=HEAD_1_5), ("module.loaded",)),
    (1, "not enabled, 1.5", OLD, log("[   15.287540] tdx: not enabled by BIOS.", head=""), ("module.loaded", "firmware.log")),
    (1, "not enabled, journal's form", UPSTREAM, log("Jun 03 02:50:04 host kernel: virt/tdx: not enabled by BIOS", head=""), ("module.loaded", "firmware.log")),
    (1, "TDX register", UPSTREAM, msr("0x1401: 0x3fffffe000400"), ("firmware.tdx",)),
    (1, "TDX register, upper case", OLD, msr("0X1401: 0X3FFFFFE000400"), ("firmware.tdx",)),
    (1, "TME off", UPSTREAM, msr("0x982: 0x0"), ("firmware.tme",)),
    (1, "TME-MT off", UPSTREAM, msr("0x981: 0x80000005"), ("firmware.tme_mt",)),
    (1, "no key split", UPSTREAM, msr("0x87: 0x000000000000007f"), ("firmware.key_split",)),
    (1, "SGX off", UPSTREAM, msr("0x3a: 0x5"), ("firmware.sgx",)),
    (1, "MCHECK", OLD, msr("0xa0: 0x801"), ("firmware.mcheck",)),
    (1, "too few KeyIDs", UPSTREAM, log("[    1.4] virt/tdx: initialization failed: too few private KeyIDs available.", head=HEAD.replace("127", "65")), ("firmware.log",)),
    (1, "the platform has none", UPSTREAM, log("[    5.1] kvm_intel: TDX not supported by the host platform", head=""), ("module.loaded", "logs.signs")),
    (2, "leaf in decimal", UPSTREAM, log("virt/tdx: SEAMCALL (34) failed: 0xC000050500000000", "virt/tdx: module initialization failed (-5)"), ("module.initialized",)),
    (2, "0x21", UPSTREAM, log("[   19.3] virt/tdx: SEAMCALL (0x21) failed: 0xc000090000000000", "[   19.3] virt/tdx: module initialization failed (-5)"), ("module.initialized",)),
    (2, "1.5", OLD, status("loaded", "[   26.1] tdx: SEAMCALL failed: leaf 33, error 0xc000090000000000", "[   26.2] tdx: TDX-Module initialization failed (-5)"), ("module.initialized",)),
    (2, "sysfs: 1.5.00", UPSTREAM, put("sys/devices/faux/tdx_host/version", "1.5.00\n"), ("module.version",)),
    (3, "1.5", OLD, status("none", "[   26.1] tdx: TDX module not loaded."), ("module.loaded",)),
    (3, "is not loaded", UPSTREAM, log("[   19.3] virt/tdx: TDX module is not loaded"), ("module.loaded",)),
    (3, "lock bit", UPSTREAM, msr("0x1401: 0x3fffffe000800"), ("firmware.seamrr_lock",)),
    (3, "base not configured", UPSTREAM, msr("0x1400: 0x3ffe000000"), ("firmware.seamrr",)),
    (3, "unknown, 1.5", OLD, status("unknown"), ("module.loaded",)),
    (4, "1.5", OLD, status("loaded", "[   26.1] tdx: initialization failed: TDMR [0x100000000, 0x140000000): reserved areas exhausted.", "[   26.2] tdx: TDX module initialization failed (-28)"), ("module.memory_layout",)),
    (4, "6.14", UPSTREAM, both(put("proc/sys/kernel/osrelease", "6.14.0-1003-intel\n"), log("virt/tdx: initialization failed: TDMR [0x0, 0x40000000): reserved areas exhausted.")), ("module.memory_layout",)),
    (5, "packages only", UPSTREAM, replace("var/lib/dpkg/status", "1:11.0.0+ds-1", "1:8.2.2+ds-0ubuntu1.4"), ("qemu.tdx_guest",)),
    (5, "QEMU's words", UPSTREAM, qemu_log("qom-type does not accept 'tdx-guest'"), ("logs.signs",)),
    (5, "ioctl", UPSTREAM, qemu_log("qemu-system-x86_64: KVM_TDX_CAPABILITIES failed: Inappropriate ioctl for device"), ("logs.signs",)),
    (5, "ioctl, 1.5", OLD, qemu_log("qemu-kvm: KVM_TDX_CAPABILITIES: Inappropriate ioctl for device"), ("logs.signs",)),
    (6, "memfd", UPSTREAM, qemu_log("qemu-system-x86_64: -object memory-backend-memfd-private,id=ram1,size=2G: invalid object type: memory-backend-memfd-private"), ("logs.signs",)),
    (6, "XML of the 1.5 stack", UPSTREAM, domain("<Quote-Generation-Service>vsock:2:4050</Quote-Generation-Service>"), ("libvirt.dialect",)),
    (6, "XML of the 1.5 stack: reboot", UPSTREAM, domain("<allowReboot value='no'/>"), ("libvirt.dialect",)),
    (6, "Canonical's XML", UPSTREAM, domain("<quoteGenerationService><SocketAddress type='vsock' cid='2' port='4050'/></quoteGenerationService>"), ("libvirt.dialect",)),
    (6, "upstream's XML", OLD, domain("<quoteGenerationService path='/var/run/tdx-qgs/qgs.socket'/>"), ("libvirt.dialect",)),
    (6, "QEMU of 1.5 by its package", UPSTREAM, replace("var/lib/dpkg/status", "Package: qemu-system-x86\n", "Package: intel-mvp-tdx-qemu-kvm\n"), ("qemu.same_stack", "libvirt.matches_qemu")),
    (7, "port in qgs.conf", UPSTREAM, both(lambda made: made.pop("var/run/tdx-qgs/qgs.socket", None), put("etc/qgs.conf", "port=4050\n")), ("attestation.qgs_transport",)),
    (7, "other path", UPSTREAM, domain("<quoteGenerationService path='/run/other/qgs.sock'/>"), ("libvirt.qgs_path",)),
    (7, "guest's words", UPSTREAM, put("guest.log", "tdx_attest: Failed to get the quote\n"), ("logs.signs",)),
    (7, "refused", OLD, qemu_log("qemu: connect to QGS vsock:2:4050: Connection refused"), ("logs.signs",)),
    (8, "capital key", UPSTREAM, put("etc/sgx_default_qcnl.conf", QCNL.decode().replace("use_secure_cert", "USE_SECURE_CERT").replace("false", "true")), ("attestation.qcnl_tls",)),
    (8, "old form", OLD, put("etc/sgx_default_qcnl.conf", "# PCCS server address\nPCCS_URL=https://localhost:8081/sgx/certification/v4/\n# To accept insecure HTTPS certificate, set this option to FALSE\nUSE_SECURE_CERT=TRUE\n"), ("attestation.qcnl",)),
    (8, "text", UPSTREAM, put("etc/sgx_default_qcnl.conf", '{"pccs_url":"https://127.0.0.1:8081/sgx/certification/v4/","use_secure_cert":"true"}'), ("attestation.qcnl_tls",)),
    (8, "version 3", UPSTREAM, put("etc/sgx_default_qcnl.conf", QCNL.decode().replace("v4", "v3")), ("attestation.qcnl_url",)),
    (8, "http", UPSTREAM, put("etc/sgx_default_qcnl.conf", QCNL.decode().replace("https", "http")), ("attestation.qcnl_url",)),
    (8, "code in upper case", UPSTREAM, put("var/log/syslog", "Jun  3 02:50:04 host qgsd[1]: [QPL] Failed to get quote config. Error code is 0xB033\n"), ("logs.signs",)),
    (8, "0xe065", OLD, put("var/log/syslog", "Jun  3 02:50:04 host qgsd[1]: tee_att_init_quote return 0xe065\n"), ("logs.signs",)),
    (9, "failed", UPSTREAM, put(MPA, "[03-06-2026 02:50:04] INFO: SGX Registration Agent version: 1.22\n[03-06-2026 02:50:05] ERROR: Registration Flow - PLATFORM_ESTABLISHMENT or TCB_RECOVERY failed.\n"), ("attestation.registration",)),
    (9, "efivar", UPSTREAM, both(lambda made: made.pop(MPA), lambda made: made.__setitem__("sys/firmware/efi/efivars/SgxRegistrationStatus-f236c5dc-a491-4bbe-bcdd-88885770df45", bytes.fromhex("06000000010003000000 00".replace(" ", "")))), ("attestation.registration",)),
    (9, "PCCS: 404", UPSTREAM, put("var/log/pccs.log", "2026-06-03 02:50:04.123 [error]: Intel PCS server returns error(404).Platform not found\n"), ("logs.signs",)),
    (9, "no cache data", OLD, put("pccs.log", "2026-06-03 [info]: No cache data for this platform.\n"), ("logs.signs",)),
    (9, "0xb010", UPSTREAM, put("qgs.log", "[QPL] No certificate data for this platform. error 0xB010\n"), ("logs.signs",)),
    (10, "bit 27", OLD, msr("0xCE: 0x80080C3DF811C00".replace("80080C3DF811C00", "80800C3DF8111C00")), ("cpu.production",)),
    (10, "0xe022", UPSTREAM, put("journal.txt", "Jun 03 02:50:04 host app[1]: tee_verify_quote returned 0xE022\n"), ("logs.signs",)),
    (10, "0xe016", UPSTREAM, put("journal.txt", "Jun 03 02:50:04 host app[1]: Error: App: tee_verify_quote failed: 0xe016\n"), ("logs.signs",)),
    (11, "by libvirt, QEMU 10.1", UPSTREAM, both(replace("var/lib/dpkg/status", "1:11.0.0+ds-1", "1:10.1.0+ds-5"), domain("", "destroy")), ("libvirt.on_reboot",)),
    (11, "1.5", OLD, domain("", "destroy"), ("libvirt.on_reboot",)),
    (12, "said by a verifier", UPSTREAM, put("guest.log", "tdx_verify_rtmr: RTMR0 mismatch: replayed 11aa, report 22bb\n"), ("logs.signs",)),
    (12, "another file, named by path", OLD, lambda made: made.__setitem__("usr/share/qemu/OVMF.fd", made["usr/share/qemu/OVMF.fd"] + b"x"), ("ovmf.unmodified",)),
    (13, "virt-customize", UPSTREAM, put("var/log/messages", "Jun  3 02:50:04 host create-td-image: libguestfs error: passt exited with status 1\n"), ("logs.signs",)),
    (13, "release", UPSTREAM, put("journal.txt", "create-td-image.sh: line 40: UBUNTU_VERSION: unbound variable\n"), ("logs.signs",)),
    (13, "guestfs-tools", UPSTREAM, lambda made: made.update({"var/lib/dpkg/status": made["var/lib/dpkg/status"] + b"\n" + dpkg({"guestfs-tools": "1.52", "passt": "0.0"}), "sys/kernel/security/apparmor/profiles": b"/usr/bin/passt (enforce)\n"}), ("images.passt",)),
    (14, "denied loader", UPSTREAM, put("var/log/kern.log", "Jun  3 02:50:04 host kernel: [  100.0] " + AUDIT.format("/usr/share/ovmf/OVMF.fd", "rwk", "wk") + "\n"), ("logs.signs",)),
    (14, "denied socket", UPSTREAM, put("var/log/syslog", AUDIT.format("/run/tdx-qgs/qgs.socket", "wr", "wr") + "\n"), ("logs.signs",)),
    (14, "denied vsock", OLD, put("var/log/syslog", AUDIT.format("/dev/vhost-vsock", "wr", "wr") + "\n"), ("logs.signs",)),
    (14, "rules are gone", UPSTREAM, put("etc/apparmor.d/abstractions/libvirt-qemu", "  /dev/kvm rw,\n"), ("confinement.apparmor",)),
    (14, "user", UPSTREAM, put("etc/libvirt/qemu.conf", 'user = "tdx"\ngroup = "tdx"\n'), ("confinement.qemu_user",)),
    (15, "all in use", OLD, put("sys/fs/cgroup/misc.current", "sgx_epc 0\ntdx 62\n"), ("capacity.keyids",)),
    (15, "no misc, one KeyID", UPSTREAM, both(lambda made: (made.pop("sys/fs/cgroup/misc.capacity"), made.pop("sys/fs/cgroup/misc.current")), msr("0x87: 0x100000040")), ("capacity.keyids",)),
    (15, "no space", UPSTREAM, qemu_log("qemu-system-x86_64: TDX ioctl KVM_TDX_INIT_VM failed, hw_errors: 0x0: No space left on device"), ("logs.signs",)),
    (15, "vfio", UPSTREAM, qemu_log("qemu-system-x86_64: vfio_container_dma_map(0x5581, 0x0, 0x80000000, 0x7f) = -28 (No space left on device)"), ("logs.signs",)),
    (15, "libvirt without TDX", UPSTREAM, put("domcapabilities.xml", "<domainCapabilities><features><tdx supported=\"no\"/></features></domainCapabilities>"), ("libvirt.tdx",)),
)  # fmt: skip


def _outcomes(made: Tree, root: Path) -> tuple[dict[str, str], int]:
    for path, content in made.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    results = tree.check_host(Host(open_host(root)))
    outcomes = {one.check.id: one.outcome.value for one in report.everything(results)}
    return outcomes, int(report.exit_code(results, tree.HOST_ROOTS))


@pytest.mark.parametrize(
    ("number", "shown", "base", "edit", "failing"), VARIANTS, ids=[f"{one[0]:02}-{one[1]}" for one in VARIANTS]
)
def test_a_variant_fails_its_check(
    number: int, shown: str, base: str, edit: Edit, failing: tuple[str, ...], tmp_path: Path
) -> None:
    made = by_hand(BY_NAME[base].build(), "rdmsr", "dmesg")
    edit(made)
    outcomes, code = _outcomes(made, tmp_path)
    assert {name: outcomes[name] for name in failing} == dict.fromkeys(failing, "fail")
    assert code == 1


#: Hosts that are well, said differently.
GOOD: tuple[tuple[str, str, Edit], ...] = (
    ("KeyIDs elsewhere", UPSTREAM, lambda made: (made.pop("sys/fs/cgroup/misc.capacity"), made.pop("sys/fs/cgroup/misc.current"))[0]),
    ("KVM's parameter as a number", UPSTREAM, put("sys/module/kvm_intel/parameters/tdx", "1\n")),
    ("registers in upper case", OLD, lambda made: made.__setitem__("msr.txt", made["msr.txt"].upper().replace(b"0X", b"0x"))),
    ("the new module line", UPSTREAM, put("dmesg", HEAD + "[ 6.3] virt/tdx: TDX module 2.0.08.00, build number 882, build date 0134fed5\n[ 6.7] virt/tdx: module initialized\n")),
    ("the draft's upload", UPSTREAM, both(*[lambda made, name=name: made.pop(name) for name in MODULE], put("sys/class/firmware/seamldr_upload/status", "idle\n"))),
    ("no capture of services or devices", OLD, lambda made: made.pop("etc/qgs.conf")),
    ("secure certificate of another PCCS", UPSTREAM, put("etc/sgx_default_qcnl.conf", '{"pccs_url": "https://pccs.example.com:8081/sgx/certification/v4/", "use_secure_cert": true}')),
    ("upstream's XML", UPSTREAM, domain("<policy>0x10000000</policy><quoteGenerationService path='/var/run/tdx-qgs/qgs.socket'/>")),
    ("upstream's XML, default path", UPSTREAM, domain("<quoteGenerationService/>")),
    ("XML of the 1.5 stack", OLD, domain("<policy>0x10000000</policy><Quote-Generation-Service>vsock:2:4050</Quote-Generation-Service>")),
    ("mpa log by another agent", UPSTREAM, put(MPA, "[04-06-2026 03:05:54] INFO: Registration Flow - PLATFORM_ESTABLISHMENT or TCB_RECOVERY passed successfully.\n")),
    ("the kernel's words at length", OLD, put("dmesg", HEAD_1_5 + "[   26.7] tdx: TDX module is initialized.\n")),
)  # fmt: skip


@pytest.mark.parametrize(("shown", "base", "edit"), GOOD, ids=[one[0] for one in GOOD])
def test_a_good_host_said_differently(shown: str, base: str, edit: Edit, tmp_path: Path) -> None:
    made = by_hand(BY_NAME[base].build(), "rdmsr", "dmesg")
    edit(made)
    outcomes, code = _outcomes(made, tmp_path)
    assert [name for name, outcome in outcomes.items() if outcome == "fail"] == []
    assert code == 0
