# ruff: noqa: E501
from __future__ import annotations

import gzip
import io
import json
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host_trees import HOSTS, LOG_UPSTREAM
from tdxstack.cli.main import main
from tdxstack.preflight import signatures
from tdxstack.preflight.diagnosis import ENOUGH, FRUITLESS, MAX_LINE, Problem, Scanner, problems
from tdxstack.preflight.signatures import Severity, book

#: A line for each signature, as programs print it.
SAMPLES = {
    "kernel.bios-enabled": "[    1.398899] virt/tdx: BIOS enabled: private KeyID range [64, 127)",
    "kernel.module-initialized": "[    6.791312] virt/tdx: module initialized",
    "kernel.not-enabled-by-bios": "[   15.287540] tdx: not enabled by BIOS.",
    "kernel.few-keyids": "[    1.0] virt/tdx: initialization failed: too few private KeyIDs available.",
    "kernel.hibernation": "[    1.0] virt/tdx: initialization failed: Hibernation support is enabled",
    "kernel.module-not-loaded": "[    1.0] virt/tdx: module not loaded",
    "kernel.seamcall": "[   19.3] virt/tdx: SEAMCALL (0x0000000000000022) failed: 0xc000050500000000",
    "kernel.reserved-areas": "[    1.0] virt/tdx: initialization failed: TDMR [0x0, 0x80000000): reserved areas exhausted.",
    "kernel.module-failed": "[    1.0] virt/tdx: module initialization failed (-28)",
    "kernel.rbp-clobber": "[    1.0] virt/tdx: frame pointer (RBP) clobber bug present, upgrade TDX module",
    "kernel.machine-check": "S0 C3 T1 [CpuRas]MC status 0xBE20000000061136, class FATAL",
    "kernel.private-memory-error": "mce: [Hardware Error]: TDX private memory error. Possible kernel bug.",
    "kernel.ept": "kvm_intel: EPT is required for TDX",
    "kernel.virt-at-load": "kvm_intel: tdx: tdx requires kvm.enable_virt_at_load=1",
    "kernel.max-vcpu": "kvm_intel: Disable TDX: MAX_VCPU_PER_TD (576) smaller than number of logical CPUs (1024).",
    "kernel.no-platform": "kvm_intel: TDX not supported by the host platform",
    "kernel.package-offline": "kvm_intel: TDX requires all packages to have an online CPU.",
    "kernel.update-failed": "seamldr: SEAMCALL (0x8000000000000001) failed: 0xc000050900000000",
    "qemu.no-object": "qemu-system-x86_64: -object tdx-guest,id=tdx: Parameter 'qom-type' does not accept value 'tdx-guest'",
    "qemu.capabilities": "qemu-system-x86_64: TDX ioctl KVM_TDX_CAPABILITIES failed: Inappropriate ioctl for device",
    "qemu.vm-type": "qemu-system-x86_64: vm-type TDX not supported by KVM",
    "qemu.keyids": "TDX ioctl KVM_TDX_INIT_VM failed, hw_errors: 0x0: No space left on device",
    "qemu.init-vm": "qemu-system-x86_64: TDX ioctl KVM_TDX_INIT_VM failed, hw_errors: 0x0: Invalid argument",
    "qemu.attributes": "Some QEMU unsupported TD attribute bits being requested: 0x20000000",
    "qemu.digest-length": "TDX 'mrowner' sha384 digest was 72 bytes, expected 48 bytes",
    "qemu.property": "qemu-system-x86_64: Property 'tdx-guest.quote-generation-service' not found",
    "qemu.migtd-section": "qemu-system-x86_64: TDVF contains unsupported section type 5",
    "qemu.tdvf": "qemu-system-x86_64: failed to parse TDVF metadata: Invalid argument",
    "qemu.vfio-dma": "vfio 0000:5e:00.0: VFIO_MAP_DMA failed: No space left on device",
    "qemu.vsock-cid": "qemu-system-x86_64: -device vhost-vsock-pci,guest-cid=3: vhost-vsock: unable to set guest cid: Address already in use",
    "qemu.kvm-denied": "Could not access KVM kernel module: Permission denied",
    "qemu.image-locked": 'qemu-system-x86_64: -drive file=td.qcow2: Failed to get "write" lock',
    "qemu.guest-panic": "qemu: TDX guest reports fatal error. error code: 0x1",
    "libvirt.apparmor": 'audit: apparmor="DENIED" operation="open" profile="libvirt-1" name="/usr/share/ovmf/OVMF.fd"',
    "libvirt.selinux": "type=AVC msg=audit(1): avc:  denied  { connectto } comm=qemu-kvm scontext=system_u:system_r:svirt_t",
    "libvirt.unsupported": "error: unsupported configuration: launch security 'tdx' is not supported with this QEMU binary",
    "libvirt.element": "error: XML document failed to validate against schema: extra content: Quote-Generation-Service",
    "libvirt.qemu-ended": "error: internal error: QEMU unexpectedly closed the monitor (vm='td1')",
    "qgs.unreachable": "qemu: quote-generation-socket: Failed to connect to '/var/run/tdx-qgs/qgs.socket': No such file or directory",
    "qgs.framing": "qgsd[335944]: body should be [-2130706432] bytes!",
    "qgs.attest": "Failed to get the quote",
    "dcap.code": "[get_platform_quote_cert_data ../td_ql_logic.cpp:302] Error returned from the p_sgx_get_quote_config API. 0xe044",
    "qcnl.code": "[QPL] Failed to get quote config. Error code is 0xb011",
    "pce.code": "sgx_pce error 0xf004",
    "qgs.generic": "tee_att_get_quote_size return 0x11001",
    "qgs.message": "qgs message error 0x12004",
    "qcnl.tls": "[QCNL] Encountered CURL error: (60) SSL peer certificate or SSH remote key was not OK",
    "qcnl.refused": "[QCNL] Encountered CURL error: (7) Could not connect to server",
    "pccs.not-registered": "[error]: No cache data for this platform.",
    "pccs.key": "[error]: Intel PCS server returns error(401): Access denied due to invalid subscription key",
    "pccs.version": '"uri": "https://api.trustedservices.intel.com/sgx/certification/v3/"',
    "pccs.database": "Error: SQLITE_CANTOPEN: unable to open database file",
    "mpa.not-sent": "INFO: Platform registration request (PLATFORM_MANIFEST) won't be send to Registration Server.",
    "mpa.failed": "ERROR: Registration Flow - PLATFORM_ESTABLISHMENT or TCB_RECOVERY failed.",
    "sgx.no-epc": "[    6.620397] sgx: There are zero EPC sections.",
    "image.passt": "libguestfs: error: passt exited with status 1",
    "image.unset": "./create-td-image.sh: line 12: UBUNTU_VERSION: unbound variable",
    "measure.mismatch": "ERROR: RTMR[0] mismatch: replayed value is not the report's",
}


def _upper(line: str) -> str:
    return re.sub(r"0x([0-9a-f]+)", lambda found: "0x" + found[1].upper(), line)


#: How kernels, journals and their exports write one line.
FORMS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "seconds": lambda line: f"[   19.324236] {line}",
    "level": lambda line: f"<4>[   19.324236] {line}",
    "time": lambda line: f"[Wed Jun  3 02:50:04 2026] {line}",
    "journal": lambda line: f"Jun 03 02:50:04 host kernel: {line}",
    "iso": lambda line: f"2026-06-03T02:50:04.123456+00:00 host qgsd[123]: {line}",
    "json": lambda line: json.dumps({"_TRANSPORT": "kernel", "MESSAGE": line, "PRIORITY": "4"}),
    "numbers": lambda line: json.dumps({"MESSAGE": [*line.encode()], "PRIORITY": "3"}, separators=(",", ":")),
    "export": lambda line: f"_TRANSPORT=kernel\nMESSAGE={line}",
    "coloured": lambda line: f"\x1b[32m[   19.324236] \x1b[0m\x1b[33m{line}\x1b[0m",
    "dos": lambda line: f"{line}\r",
    "upper": _upper,
}


def _found(*lines: str) -> dict[str, Problem]:
    scan = Scanner("log").read(io.BytesIO("\n".join(lines).encode()))
    return {one.id: one for one in problems([scan])}


def test_every_signature_has_a_sample() -> None:
    assert set(SAMPLES) == {signature.id for signature in book().signatures}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_is_found_in_the_middle_of_a_log(name: str) -> None:
    log = f"Jan 1 nothing\n{SAMPLES[name]}\nJan 1 nothing".encode()
    scan = Scanner("log").read(io.BytesIO(log))
    assert name in scan.seen
    (sighting,) = [one for one in scan.sightings.values() if one.signature.id == name]
    assert sighting.line_number == 2
    if sighting.signature.severity is not Severity.MARK:
        assert sighting.cause and sighting.fix


def _lookalike(signature: signatures.Signature) -> bytes:
    return b"\xff x" + signature.anchors[0] + b"zz nothing\n"


@pytest.mark.parametrize(
    "name", [one.id for one in book().signatures if one.pattern and not one.pattern.search(_lookalike(one))]
)
def test_a_sign_among_lines_that_look_like_it(name: str) -> None:
    """Anchors that stand in every line cost neither the sign nor the line's number."""
    (signature,) = [one for one in book().signatures if one.id == name]
    line = _lookalike(signature)
    log = line * (FRUITLESS * 2) + SAMPLES[name].encode() + b"\n" + line * 3
    stream = io.BytesIO(log)
    scan = Scanner(name).read(stream)
    assert scan.seen.get(name) == 1
    (sighting,) = [one for one in scan.sightings.values() if one.signature.id == name]
    assert sighting.line_number == FRUITLESS * 2 + 1


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("kernel.module-not-loaded", "tdx: TDX module is not loaded."),
        ("kernel.module-not-loaded", "x86/tdx: P-SEAMLDR is not loaded"),
        ("kernel.module-failed", "tdx: TDX-Module initialization failed (-5)"),
        ("kernel.seamcall", "kvm_intel: TDH_VP_ENTER failed: 0xc000010000000000"),
        ("qemu.no-object", "qom-type does not accept 'tdx-guest'"),
        ("qemu.keyids", "KVM_TDX_INIT_VM: No space left on device"),
        ("qemu.init-vm", "qemu-kvm: TDX ioctl KVM_TDX_INIT_VM failed, hw_errors: 0xc000010000000000"),
        ("qemu.init-vm", "qemu-kvm: KVM_TDX_INIT_VM failed: EINVAL"),
        ("qemu.vfio-dma", "vfio_container_dma_map(0x55, 0x0, 0x1000, 0x7f) = -28 (No space left on device)"),
        (
            "libvirt.apparmor",
            'apparmor="DENIED" operation="connect" profile="libvirt-1" name="/run/tdx-qgs/qgs.socket"',
        ),
        ("libvirt.element", "error: unsupported configuration: unknown element allowReboot"),
        ("measure.mismatch", "rtmr0 does not match the log"),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_a_sign_in_other_words_and_forms(name: str, line: str, form: str) -> None:
    assert name in _found(FORMS[form](line)), FORMS[form](line)


def test_every_sign_in_every_form() -> None:
    for name, line in SAMPLES.items():
        (signature,) = [one for one in book().signatures if one.id == name]
        if signature.severity is not Severity.MARK:
            assert [form for form, made in FORMS.items() if name not in _found(made(line))] == [], name


def test_patterns_are_taken_by_both_engines() -> None:
    """A pattern is searched for line by line by one engine, and over a whole log by the other."""
    for signature in book().signatures:
        if signature.pattern:
            assert signatures.by_lines(signature.pattern.pattern)


@pytest.mark.parametrize(
    "line",
    [
        "tdx: SEAMCALL 0x22 failed 0xc000050500000000",
        "[1.0] SEAMCALL[0x22] failed with 0xc000050500000000",
        "tdx: SEAMCALL failed: leaf 34, error 0xc000050500000000",
        "seamcall leaf 0x22 returned 0xC000050500000000",
    ],
)
def test_a_failed_seamcall_in_the_words_of_several_kernels(line: str) -> None:
    found = _found(line)["kernel.seamcall"]
    assert found.detail == "0xc000050500000000"
    assert found.cause.startswith("TDH.SYS.RD: TDX_SYS_NOT_READY")


@pytest.mark.parametrize(
    ("line", "name", "code"),
    [
        ("0xb033", "qcnl.code", "0xb033"),
        ("pck cert 0xB010", "qcnl.code", "0xb010"),
        ("return 0xe065", "dcap.code", "0xe065"),
        ("ret=0xE047", "dcap.code", "0xe047"),
        ("quote3_error_t 0xe022", "dcap.code", "0xe022"),
        ("[QPL] Error code is 0xe011", "dcap.code", "0xe011"),
        ("Error 0xb011", "qcnl.code", "0xb011"),
        ("tdx_att_get_quote return 0x11001", "qgs.generic", "0x11001"),
    ],
)
def test_codes_are_found_bare_too(line: str, name: str, code: str) -> None:
    assert _found(line)[name].detail == code


def test_the_standard_engine_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    log = "\n".join(SAMPLES.values()).encode()
    first = Scanner("log").read(io.BytesIO(log)).seen
    monkeypatch.setattr(signatures, "expressions", re)
    assert Scanner("log").read(io.BytesIO(log)).seen == first


def test_a_good_log_has_no_problems() -> None:
    assert _found(*LOG_UPSTREAM.splitlines()) == {}


def test_quiet_lines_are_no_signs() -> None:
    quiet = [
        "Jan 22 tdx-host1 qgsd[1]: tee_att_get_quote_size return Success",
        "Jan 22 tdx-host1 systemd[1]: Permission denied",
        "Jan 22 tdx-guest kernel: the address 0xe011 is mapped",
        'audit: apparmor="DENIED" profile="firefox"',
        "GET /sgx/certification/v4/pckcert 200",
    ]
    assert _found(*quiet) == {}


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("0xe011", "no PCK certificate"),
        ("0xb011", "unexpected status"),
        ("0xb033", "certificate is refused"),
        ("0xe047", "does not know this platform"),
        ("0xe022", "does not end in the trusted root"),
        ("0x11001", "below QGS"),
        ("0xe0fe", "not in the tables"),
    ],
)
def test_codes_are_told_in_words(code: str, words: str) -> None:
    (problem,) = _found(f"[QPL] Failed to get quote config. Error code is {code}").values()
    assert words in problem.cause
    assert problem.detail == code
    assert problem.fix


def test_a_seamcall_is_decoded() -> None:
    problem = _found(SAMPLES["kernel.seamcall"])["kernel.seamcall"]
    assert problem.cause.startswith("TDH.SYS.RD: TDX_SYS_NOT_READY")


def test_an_error_number_is_named() -> None:
    assert "No space left" in _found(SAMPLES["kernel.module-failed"])["kernel.module-failed"].detail


def test_silence_after_bios_enabled_is_a_problem() -> None:
    assert "kernel.silence-after-bios" in _found(SAMPLES["kernel.bios-enabled"])
    both = _found(SAMPLES["kernel.bios-enabled"], SAMPLES["kernel.module-not-loaded"])
    assert "kernel.silence-after-bios" not in both


def test_lines_are_counted_over_blocks() -> None:
    filler = b"x" * 99 + b"\n"
    log = filler * 9000 + SAMPLES["qemu.vm-type"].encode() + b"\n" + filler * 9000 + SAMPLES["qemu.vm-type"].encode()
    scan = Scanner("log").read(io.BytesIO(log))
    (sighting,) = scan.sightings.values()
    assert sighting.line_number == 9001
    assert sighting.count == 2
    assert scan.lines == 18002
    assert scan.size == len(log)


def test_a_log_without_newlines_is_read_in_bounded_memory() -> None:
    class Endless:
        left = 64 << 20

        def read(self, size: int, /) -> bytes:
            size = min(size, self.left)
            self.left -= size
            return b"y" * size

    tracemalloc.start()
    scan = Scanner("log").read(Endless())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert scan.size == 64 << 20
    assert peak < 4 << 20


def test_a_log_full_of_one_fault_is_capped() -> None:
    line = SAMPLES["qcnl.code"].encode() + b"\n"
    scan = Scanner("log").read(io.BytesIO(line * (ENOUGH * 3) + SAMPLES["qemu.vm-type"].encode()))
    assert ENOUGH <= scan.seen["qcnl.code"] < ENOUGH * 3
    assert scan.seen["qemu.vm-type"] == 1


def test_very_long_lines_are_cut() -> None:
    scan = Scanner("log").read(io.BytesIO(b"z" * (MAX_LINE * 3) + SAMPLES["qemu.vm-type"].encode()))
    assert scan.size > MAX_LINE


@given(st.binary(max_size=3000))
def test_arbitrary_bytes(data: bytes) -> None:
    problems([Scanner("log").read(io.BytesIO(data))])


@given(st.lists(st.sampled_from(sorted(SAMPLES.values())), max_size=30), st.integers(1, 700))
def test_block_boundaries_change_nothing(lines: list[str], size: int) -> None:
    log = "\n".join(lines).encode()

    class Slow:
        def __init__(self) -> None:
            self._stream = io.BytesIO(log)

        def read(self, _size: int, /) -> bytes:
            return self._stream.read(size)

    assert Scanner("log").read(Slow()).seen == Scanner("log").read(io.BytesIO(log)).seen


def test_files_packed_files_and_a_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.log").write_text(SAMPLES["qcnl.code"] + "\n")
    with gzip.open(tmp_path / "b.log.gz", "wb") as stream:
        stream.write(SAMPLES["qcnl.code"].encode())
    assert main(["host", "diagnose", str(tmp_path / "a.log"), str(tmp_path / "b.log.gz"), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "tdxstack/host-diagnosis/v1"
    assert not document["ok"]
    (problem,) = document["problems"]
    assert (problem["id"], problem["count"], problem["severity"]) == ("qcnl.code", 2, "error")
    assert [log["lines"] for log in document["logs"]] == [1, 1]


def test_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(SAMPLES["qemu.keyids"].encode())))
    assert main(["host", "diagnose", "-"]) == 1
    out = capsys.readouterr().out
    assert "all KeyIDs are in use" in out
    assert "standard input, line 1" in out


def test_a_captured_tree_with_its_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["host", "diagnose", "--root", str(HOSTS / "problem-08-pccs-tls"), "--json"]) == 1
    ids = [one["id"] for one in json.loads(capsys.readouterr().out)["problems"]]
    assert ids == ["config.attestation.qcnl_tls"]
    assert main(["host", "diagnose", "--root", str(HOSTS / "good-upstream")]) == 0


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("problem-01-bios-half-configured", "kernel.not-enabled-by-bios"),
        ("problem-02-old-module", "kernel.seamcall"),
        ("problem-03-module-not-loaded", "kernel.module-not-loaded"),
        ("problem-04-reserved-areas-exhausted", "kernel.reserved-areas"),
        ("problem-09-not-registered", "mpa.not-sent"),
    ],
)
def test_the_catalogues_logs(name: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["host", "diagnose", "--root", str(HOSTS / name), "--json"])
    assert problem in [one["id"] for one in json.loads(capsys.readouterr().out)["problems"]]


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["host", "diagnose", "/no/such.log"]) == 1
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", [b"\x1f\x8b broken", gzip.compress(b"some log\n" * 500)[:-40]], ids=["broken", "cut"]
)
def test_a_packed_log_that_is_damaged(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "root/var/log/libvirt/qemu/td.log"
    log.parent.mkdir(parents=True)
    log.write_bytes(content)
    assert main(["host", "diagnose", str(log)]) == 1
    assert "name log files" in capsys.readouterr().err
    assert main(["host", "diagnose", "--root", str(tmp_path / "root"), "--json"]) == 0
    sources = [one["source"] for one in json.loads(capsys.readouterr().out)["logs"]]
    assert "/var/log/libvirt/qemu/td.log (not readable)" in sources


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"quiet\n", "0 problems in 1 log ("), (b"tdx: TDX module is not loaded.\n", "1 problem in 1 log (")],
)
def test_numbers_in_words(content: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log").write_bytes(content)
    main(["host", "diagnose", str(tmp_path / "log")])
    assert words in capsys.readouterr().out


def test_what_cannot_be_read_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["host", "diagnose", str(tmp_path)]) == 1
    assert f"tdxctl: {tmp_path}: Is a directory\n" in capsys.readouterr().err
