"""The main job on a real boot: from image and firmware to an accepted quote, and every way it must not be."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from integration.conftest import Tdxctl, run_by_the_agent

pytestmark = pytest.mark.integration
CLIENTS = Path(__file__).parent / "clients"


def test_document(quickstart: Any) -> None:
    assert quickstart["schema"] == "tdxstack/quickstart/v1"
    assert quickstart["platform"] == "software"
    assert quickstart["verdict"] == "accepted"
    assert quickstart["reasons"] == []
    firmware = quickstart["firmware"]
    assert hashlib.sha256(Path(firmware["path"]).read_bytes()).hexdigest() == firmware["sha256"]
    assert quickstart["mrtd"]["expected"] == quickstart["mrtd"]["quoted"]
    assert len(quickstart["rtmr"]) == 4
    for register in quickstart["rtmr"]:
        assert register["expected"] == register["replayed"] == register["quoted"]
    assert len({register["quoted"] for register in quickstart["rtmr"]}) == 4
    assert quickstart["rtmr"][3]["quoted"] == "00" * 48
    assert quickstart["verification"]["status"] == "UpToDate"
    assert quickstart["verification"]["software"] is True
    assert {"quote", "collateral", "root", "ccel", "report"} <= set(quickstart["files"])


def test_third_party_verifier_accepts_quote_and_collateral(quickstart: Any) -> None:
    import dcap_qvl  # type: ignore[import-untyped]

    quote = Path(quickstart["files"]["quote"]).read_bytes()
    collateral = dcap_qvl.QuoteCollateralV3.from_json(Path(quickstart["files"]["collateral"]).read_text())
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509 import load_pem_x509_certificate

    root = load_pem_x509_certificate(Path(quickstart["files"]["root"]).read_bytes()).public_bytes(Encoding.DER)
    result = dcap_qvl.verify_with_root_ca(quote, collateral, root, int(time.time()))
    assert result.status == "UpToDate"
    with pytest.raises(ValueError):
        dcap_qvl.verify(quote, collateral, int(time.time()))


def test_kept_files_verify_with_the_named_root_alone(tdxctl: Tdxctl, quickstart: Any) -> None:
    files = quickstart["files"]
    words = ("quote", "verify", files["quote"], "--collateral", files["collateral"], "--json")
    accepted = tdxctl(*words, "--trust-root", files["root"])
    assert accepted.returncode == 0, accepted.stderr
    assert json.loads(accepted.stdout)["authentic"] is True
    refused = tdxctl(*words)
    assert refused.returncode == 3
    assert json.loads(refused.stdout)["authentic"] is False


def test_show_reads_what_was_kept(tdxctl: Tdxctl, quickstart: Any) -> None:
    files = quickstart["files"]
    assert tdxctl.json("quote", "show", files["quote"])["schema"] == "tdxstack/quote/v1"
    assert tdxctl.json("report", "show", files["report"])["schema"].startswith("tdxstack/")
    log = tdxctl.json("eventlog", "show", files["ccel"])
    assert log["schema"] == "tdxstack/eventlog/v1"
    replayed = tdxctl.json("eventlog", "replay", files["ccel"], "--quote", files["quote"])
    assert replayed["matches"] == [True] * 4


def test_a_running_td_proves_itself_anew(tdxctl: Tdxctl, quickstart: Any) -> None:
    again = tdxctl.json("attest", quickstart["td"]["name"])
    assert again["schema"] == "tdxstack/attestation/v1"
    assert again["verdict"] == "accepted"
    assert again["nonce"] != quickstart["nonce"]
    assert again["rtmr"][:3] == quickstart["rtmr"][:3]
    nobody = tdxctl("attest", "nobody")
    assert nobody.returncode != 0
    assert "no TD" in nobody.stderr


def test_guest_verbs_from_the_host(tdxctl: Tdxctl, quickstart: Any, tmp_path: Path) -> None:
    name = quickstart["td"]["name"]
    out = tmp_path / "quote.bin"
    tdxctl.ok("guest", "quote", "--td", name, "--report-data", "ab" * 64, "--out", str(out))
    shown = tdxctl.json("quote", "show", str(out))
    assert "ab" * 64 in json.dumps(shown)
    registers = tdxctl.json("guest", "rtmr", "--td", name)
    assert [registers["rtmr"][0]] == [quickstart["rtmr"][0]["quoted"]]


def _run_in_guest(tdxctl: Tdxctl, name: str, client: Path, *outputs: str) -> subprocess.CompletedProcess[str]:
    copied = f"/root/{client.name}"
    with client.open("rb") as source:
        done = subprocess.run(
            [sys.executable, "-m", "tdxstack.cli", "td", "ssh", name, "--", f"cat > {copied} && chmod 755 {copied}"],
            stdin=source,
            env=tdxctl.environment,
            capture_output=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return tdxctl("td", "ssh", name, "--", copied, *outputs)


def test_commands_by_the_agent(tdxctl: Tdxctl, quickstart: Any) -> None:
    """No network in the guest is needed; status, both outputs and a time limit are passed on."""
    run_by_the_agent(tdxctl, quickstart["td"]["name"])


@pytest.mark.parametrize("client", ["tsm_quote.sh", "ccel.sh", "tdx_report.c"])
def test_unmodified_clients(tdxctl: Tdxctl, quickstart: Any, tmp_path: Path, client: str) -> None:
    source = CLIENTS / client
    if source.suffix == ".c":
        binary = tmp_path / source.stem
        subprocess.run(["gcc", "-static", "-O1", "-Wall", "-o", str(binary), str(source)], check=True)
        source = binary
    outputs = ["/root/table", "/root/data"] if client == "ccel.sh" else ["/root/out"]
    done = _run_in_guest(tdxctl, quickstart["td"]["name"], source, *outputs)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr}"


def test_a_client_of_the_registers_in_sysfs(tdxctl: Tdxctl, quickstart: Any) -> None:
    """It extends RTMR3; the TD that others share goes back to how it was."""
    name = quickstart["td"]["name"]
    tdxctl.ok("td", "snapshot", "create", name, "untouched")
    try:
        done = _run_in_guest(tdxctl, name, CLIENTS / "measurements.sh", "/root/out")
        assert done.returncode == 0, f"{done.returncode}: {done.stderr}"
        assert tdxctl.json("guest", "rtmr", "--td", name)["rtmr"][3] != quickstart["rtmr"][3]["quoted"]
    finally:
        tdxctl.ok("td", "stop", name, "--mode", "force")
        tdxctl.ok("td", "snapshot", "revert", name, "untouched")
        tdxctl.ok("td", "start", name, "--wait")
    assert tdxctl.json("guest", "rtmr", "--td", name)["rtmr"] == [one["quoted"] for one in quickstart["rtmr"]]
    tdxctl.ok("td", "snapshot", "delete", name, "untouched")


@pytest.fixture(scope="module")
def expected(tdxctl: Tdxctl, quickstart: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prediction of the good boot, kept as a document, as a verifier would keep it."""
    document = tdxctl.ok("measure", "predict", "--td", quickstart["td"]["name"], "--json")
    path = tmp_path_factory.mktemp("expected") / "expected.json"
    path.write_text(document)
    return path


def _changed(tdxctl: Tdxctl, quickstart: Any, what: str, folder: Path) -> list[str]:
    td = quickstart["td"]
    changed = folder / what
    if what == "command line":
        return ["--append", "extra"]
    if what == "initrd":
        changed.write_bytes(Path(td["initrd"]).read_bytes() + bytes(512))
        return ["--initrd", str(changed)]
    if what == "kernel":
        kernel = bytearray(Path(td["kernel"]).read_bytes())
        version = int.from_bytes(kernel[0x20E:0x210], "little") + 0x200  # boot protocol: kernel_version, a text
        kernel[version] ^= 1
        changed.write_bytes(kernel)
        return ["--kernel", str(changed)]
    firmware = bytearray(Path(quickstart["firmware"]["path"]).read_bytes())
    at = firmware.index(b"\xff" * 64, 0x90000)
    firmware[at] = 0xFE
    changed.write_bytes(firmware)
    return ["--firmware", str(changed)]


@pytest.mark.parametrize(
    ("what", "register"), [("command line", "RTMR2"), ("initrd", "RTMR2"), ("kernel", "RTMR1"), ("firmware", "MRTD")]
)
def test_a_changed_boot_is_rejected_and_named(
    tdxctl: Tdxctl, quickstart: Any, expected: Path, what: str, register: str, tmp_path: Path
) -> None:
    options = _changed(tdxctl, quickstart, what, tmp_path)
    done = tdxctl("quickstart", "--expect", str(expected), *options, "--json", timeout=300)
    assert done.returncode == 3, done.stderr
    document = json.loads(done.stdout)
    assert document["verdict"] == "rejected"
    reasons = [reason for reason in document["reasons"] if reason.startswith(register)]
    assert reasons, document["reasons"]
    assert what in reasons[0]
    assert document["verification"]["authentic"] is True


def test_four_tds_at_once(tdxctl: Tdxctl, quickstart: Any) -> None:
    td = quickstart["td"]
    names = [f"four-{number}" for number in range(4)]
    try:
        for name in names:
            tdxctl.ok(
                "td", "create", name, "--image", td["image"], "--kernel", td["kernel"], "--initrd", td["initrd"],
                "--cmdline", f"{td['cmdline']} tdxstack.number={name}", "--memory", "768M",
                "--firmware", quickstart["firmware"]["path"],
            )  # fmt: skip
            tdxctl.ok("td", "start", name)
        for name in names:
            tdxctl.ok("td", "wait", name, "--for", "agent", timeout=400)
        registers = [tuple(tdxctl.json("guest", "rtmr", "--td", name)["rtmr"]) for name in names]
        assert len({values[2] for values in registers}) == 4, "each has its own command line in RTMR2"
        assert len({values[1] for values in registers}) == 1, "all have the same kernel in RTMR1"
        listed = {td["name"]: td for td in tdxctl.json("td", "list")["tds"]}
        assert len({listed[name]["run"]["ssh_port"] for name in names}) == 4
        tdxctl.ok("td", "stop", names[0], "--mode", "acpi", "--timeout", "240", timeout=300)
        assert tdxctl.json("td", "show", names[0])["state"] == "stopped"
        assert tdxctl.json("td", "show", names[1])["state"] == "running"
    finally:
        for name in names:
            tdxctl("td", "delete", name, "--yes")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_quickstart_leaves_nothing(tdxctl: Tdxctl, quickstart: Any, number: int) -> None:
    before = tdxctl.json("td", "list")["tds"]
    with subprocess.Popen(
        [sys.executable, "-m", "tdxstack.cli", "quickstart"],
        env=tdxctl.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "wait for the guest" in line:
                process.send_signal(number)
                break
        process.stderr.read()
        assert process.wait(timeout=60) == 130
    after = tdxctl.json("td", "list")["tds"]
    assert [td["name"] for td in after] == [td["name"] for td in before]
    assert all(td["state"] == "running" for td in after)


def test_a_second_start_and_a_port_in_use(tdxctl: Tdxctl, quickstart: Any) -> None:
    again = tdxctl("td", "start", quickstart["td"]["name"])
    assert again.returncode == 1
    assert "running" in again.stderr
    td = quickstart["td"]
    try:
        tdxctl.ok(
            "td", "create", "clash", "--kernel", td["kernel"], "--initrd", td["initrd"], "--cmdline", "x",
            "--firmware", quickstart["firmware"]["path"], "--ssh-port", str(td["ssh_port"]),
        )  # fmt: skip
        done = tdxctl("td", "start", "clash")
        assert done.returncode == 1
        assert str(td["ssh_port"]) in done.stderr
    finally:
        tdxctl("td", "delete", "clash", "--yes")
