"""``tdxctl quote``, ``report``, ``collateral`` and ``policy`` as a user runs them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tdxstack.cli.main import main
from tdxstack.dcap.certificate import to_pem
from tdxstack.dcap.roots import INTEL_ROOT_DER

NOW = "1751000000"


@pytest.fixture(scope="session")
def real(vectors: Path) -> Path:
    return vectors / "attestation" / "real" / "dcapqvl-tdx-v4"


def run(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    status = main([str(word) for word in argv] + ["--json"])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return status, json.loads(captured.out) if captured.out else {}


def verify(capsys: pytest.CaptureFixture[str], quote: Path, collateral: Path, *more: str | Path) -> tuple[int, Any]:
    return run(capsys, "quote", "verify", quote, "--collateral", collateral, *more)


CONTRACT = {
    "schema", "authentic", "status", "qvl", "launch_status", "current_status", "advisories", "tcb_date", "expiry",
    "steps", "policy",
}  # fmt: skip


def test_accepted(capsys: pytest.CaptureFixture[str], real: Path) -> None:
    for at in (
        NOW,
        f"{NOW}.75",
        "2025-06-27 04:53:20 UTC",
        "2025-06-27T04:53:20Z",
        "2025-06-27T06:53:20+02:00",
        "2025-06-27",
    ):
        status, body = verify(
            capsys, real / "quote.bin", real / "collateral.json", "--at", at, "--trust-root", "intel"
        )
        assert status == 0
        assert body.keys() >= CONTRACT
        assert body["schema"] == "tdxstack/quote-verification/v1"
        assert (body["authentic"], body["status"], body["launch_status"]) == (True, "UpToDate", "UpToDate")
        assert set(body["qvl"]) == {"pck_certificate", "tcb_info", "enclave_identity", "quote"}
        assert body["expiry"]["earliest"] == "2025-07-19T10:00:35Z"
        assert body["tcb_date"] == "2024-03-13T00:00:00Z"
        assert all(step.keys() == {"name", "outcome", "detail"} for step in body["steps"])


def test_now_is_the_default(capsys: pytest.CaptureFixture[str], real: Path) -> None:
    status, body = verify(capsys, real / "quote.bin", real / "collateral.json")
    assert (status, body["expiry"]["expired"], body["authentic"]) == (5, True, True)


def test_policy_decides(capsys: pytest.CaptureFixture[str], real: Path, tmp_path: Path) -> None:
    folder = real.parent / "zkdcap-v4"
    arguments = (folder / "quote.bin", folder / "collateral.json", "--at", "1737500000")
    status, body = verify(capsys, *arguments)
    assert (status, body["authentic"], body["accepted"]) == (3, True, False)
    policy = tmp_path / "policy.toml"
    policy.write_text('name = "lenient"\n[tcb]\naccepted_statuses = ["UpToDate", "OutOfDate"]\n')
    status, body = verify(capsys, *arguments, "--policy", policy)
    assert (status, body["accepted"], body["policy"]["name"]) == (0, True, "lenient")
    status, body = verify(capsys, *arguments, "--policy", policy, "--report-data", "ff")
    assert (status, body["accepted"]) == (3, False)


def test_only_named_roots_are_trusted(capsys: pytest.CaptureFixture[str], vectors: Path) -> None:
    folder = vectors / "attestation" / "synthetic" / "ok_v5_td15"
    arguments = (folder / "quote.bin", folder / "collateral.json", "--at", "1781481600")
    status, body = verify(capsys, *arguments)
    assert (status, body["authentic"], body["status"]) == (3, False, "SGX_PCK_CERT_CHAIN_UNTRUSTED")
    status, body = verify(capsys, *arguments, "--trust-root", folder / "root.der")
    assert (status, body["authentic"]) == (0, True)


@pytest.mark.parametrize("content", [b"", b"\x04\x00", b"garbage" * 500, b"4" * 3000, bytes(5000)])
def test_false_quotes(capsys: pytest.CaptureFixture[str], real: Path, tmp_path: Path, content: bytes) -> None:
    quote = tmp_path / "quote.bin"
    quote.write_bytes(content)
    status, body = verify(capsys, quote, real / "collateral.json", "--at", NOW)
    assert (status, body["authentic"], body["status"]) == (3, False, "UNSUPPORTED_QUOTE_FORMAT")
    assert body["fault_offset"] is not None
    step = next(step for step in body["steps"] if step["outcome"] == "fail" and step["name"] == "quote_format")
    assert "at offset" in step["detail"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", 3),
        ("no JSON", 3),
        ("[" * 50000, 3),
        ("{}", 5),
        ('{"tcb_info": 3}', 5),
        ("null", 3),
    ],
)
def test_false_collateral(
    capsys: pytest.CaptureFixture[str], real: Path, tmp_path: Path, content: str, expected: int
) -> None:
    collateral = tmp_path / "collateral.json"
    collateral.write_text(content)
    status, body = verify(capsys, real / "quote.bin", collateral, "--at", NOW)
    assert (status, body["authentic"]) == (expected, False)
    assert body.keys() >= CONTRACT
    assert body["steps"][0]["name"] == "collateral"
    assert body["steps"][0]["outcome"] == "fail"


def test_missing_items(capsys: pytest.CaptureFixture[str], real: Path, tmp_path: Path) -> None:
    members = json.loads((real / "collateral.json").read_text())
    for name in [name for name in members if name != "pck_crl_issuer_chain"]:
        collateral = tmp_path / "collateral.json"
        collateral.write_text(json.dumps({key: value for key, value in members.items() if key != name}))
        status, body = verify(capsys, real / "quote.bin", collateral, "--at", NOW)
        assert (status, body["authentic"]) == (5, False)
        assert name in body["steps"][0]["detail"]
    status, body = verify(capsys, real / "quote.bin", tmp_path / "absent.json", "--at", NOW)
    assert (status, body["authentic"]) == (5, False)


def test_usage_errors(capsys: pytest.CaptureFixture[str], real: Path, tmp_path: Path) -> None:
    arguments = ["quote", "verify", str(real / "quote.bin"), "--collateral", str(real / "collateral.json")]
    empty = tmp_path / "empty"
    empty.write_text("")
    for more in (
        ["--at", "yesterday"],
        ["--at", "9" * 40],
        ["--trust-root", str(tmp_path / "absent")],
        ["--trust-root", str(empty)],
        ["--policy", str(tmp_path / "absent")],
        ["--report-data", "xyz"],
        ["--report-data", "00" * 65],
    ):
        assert main([*arguments, *more]) == 2
    assert main(["quote", "verify", str(tmp_path / "absent"), "--collateral", str(real / "collateral.json")]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_show(capsys: pytest.CaptureFixture[str], real: Path, tmp_path: Path) -> None:
    status, body = run(capsys, "quote", "show", real / "quote.bin")
    assert (status, body["schema"], body["version"], body["tee"]) == (0, "tdxstack/quote/v1", 4, "tdx")
    assert body["signature"]["pck"]["fmspc"] == "b0c06f000000"
    assert body["body"]["td_attribute_names"] == ["SEPT_VE_DISABLE"]
    for text in (
        (real / "quote.bin").read_bytes().hex(),
        base64.b64encode((real / "quote.bin").read_bytes()).decode(),
        base64.urlsafe_b64encode((real / "quote.bin").read_bytes()).decode().rstrip("="),
    ):
        copy = tmp_path / "quote.txt"
        copy.write_text(text + "\n")
        assert run(capsys, "quote", "show", copy)[1] == body
    status, sgx = run(capsys, "quote", "show", real.parent / "dcapqvl-sgx-v3" / "quote.bin")
    assert (status, sgx["tee"], sgx["signature"]["pck"]["ca"]) == (0, "sgx", "processor")
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    status, error = run(capsys, "quote", "show", empty)
    assert (status, error["error"]) == (1, "WireError")


def test_every_field_of_each_body_is_shown(capsys: pytest.CaptureFixture[str], vectors: Path) -> None:
    """Also in the verification, where appraisal by others needs them."""
    for name, size in (("ok_v4_mod1", 584), ("ok_v5_td15", 648), ("ok_v5_td15ex", 885)):
        folder = vectors / "attestation" / "synthetic" / name
        _, shown = run(capsys, "quote", "show", folder / "quote.bin")
        body = shown["body"]
        hexadecimal = [word for word in body.values() if isinstance(word, str)] + body["rtmrs"]
        assert sum(len(word) for word in hexadecimal) // 2 + ("vm_id" in body) == size
        _, verified = verify(capsys, folder / "quote.bin", folder / "collateral.json")
        assert body.items() <= verified["quote"].items()


def test_report_show(capsys: pytest.CaptureFixture[str], vectors: Path) -> None:
    folder = vectors / "attestation" / "tdreport"
    status, body = run(capsys, "report", "show", folder / "tdreport_for_test.dat")
    assert (status, body["hashes_hold"]) == (0, True)
    assert len(body["td_info"]["rtmrs"]) == 4
    assert run(capsys, "report", "show", folder / "not_a_tdreport.dat")[0] == 1


def test_explain(capsys: pytest.CaptureFixture[str], real: Path) -> None:
    folder = real.parent / "zkdcap-v4"
    status, body = run(
        capsys,
        "quote",
        "explain",
        folder / "quote.bin",
        "--collateral",
        folder / "collateral.json",
        "--at",
        "1737500000",
    )
    assert status == 0
    assert body["launch"][0]["gaps"][0]["need"] == 7
    assert body["remedies"][0]["class"] == "bios-or-microcode"


def test_explain_rejects_what_is_not_genuine(
    capsys: pytest.CaptureFixture[str], real: Path, vectors: Path, tmp_path: Path
) -> None:
    """A TCB that no level covers is explained; no TCB is explained by a quote that proves none."""
    at = ("--collateral", real / "collateral.json", "--at", NOW)
    whole = (real / "quote.bin").read_bytes()
    changed = tmp_path / "quote.bin"
    for data in (whole[:600], b"", whole[:100] + bytes([whole[100] ^ 1]) + whole[101:]):
        changed.write_bytes(data)
        assert run(capsys, "quote", "explain", changed, *at)[0] == 3
    untrusted = vectors / "attestation" / "synthetic" / "plat_tdx2_none"
    of_nobody = (untrusted / "quote.bin", "--collateral", untrusted / "collateral.json", "--at", "1781481600")
    assert run(capsys, "quote", "explain", *of_nobody)[0] == 3
    assert run(capsys, "quote", "explain", *of_nobody, "--trust-root", untrusted / "root.der")[0] == 0
    old = real.parent / "dcapqvl-tdx-v5-outdated"
    now = str(json.loads((old / "meta.json").read_text())["valid_from"] + 60)
    of_old = (old / "quote.bin", "--collateral", old / "collateral.json", "--at", now)
    status, body = run(capsys, "quote", "explain", *of_old)
    assert (status, body["status"]) == (0, "TCB_NOT_SUPPORTED")


def test_a_file_too_large_for_a_quote_gets_the_document(
    capsys: pytest.CaptureFixture[str], real: Path, tmp_path: Path
) -> None:
    large = tmp_path / "quote.bin"
    for data in ((real / "quote.bin").read_bytes(), b""):
        large.write_bytes(data + bytes(20 << 20))
        status, body = verify(capsys, large, real / "collateral.json", "--at", NOW)
        assert (status, body["authentic"], body["status"]) == (3, False, "UNSUPPORTED_QUOTE_FORMAT")
        assert body.keys() >= CONTRACT


def test_collateral_too_large_is_malformed(capsys: pytest.CaptureFixture[str], real: Path, tmp_path: Path) -> None:
    large = tmp_path / "collateral.json"
    large.write_bytes(bytes(20 << 20))
    status, body = verify(capsys, real / "quote.bin", large, "--at", NOW)
    assert (status, body["authentic"], body["steps"][0]["outcome"]) == (3, False, "fail")
    assert body["hint"].startswith("tdxctl collateral fetch --quote ")


def test_roots_in_each_form(capsys: pytest.CaptureFixture[str], real: Path, tmp_path: Path) -> None:
    der = INTEL_ROOT_DER
    pem = to_pem(der).encode()
    root = tmp_path / "root"
    for form in (
        der,
        pem,
        pem.replace(b"\n", b"\r\n"),
        b"Subject: root\n\n" + pem,
        der.hex().upper().encode() + b"\n",
    ):
        root.write_bytes(form)
        status, _ = verify(capsys, real / "quote.bin", real / "collateral.json", "--at", NOW, "--trust-root", root)
        assert status == 0, form[:20]


@pytest.mark.parametrize(
    ("case", "more", "hint", "verdict"),
    [
        ("real/dcapqvl-tdx-v4", (), None, "accepted: UpToDate"),
        ("real/dcapqvl-tdx-v4", ("--report-data", "01"), "tdxctl policy explain", "REJECTED by the policy: UpToDate"),
        ("real/zkdcap-v4", (), "tdxctl quote explain QUOTE --collateral", "REJECTED by the policy: OutOfDate"),
        ("real/dcapqvl-tdx-v5-outdated", (), "tdxctl quote explain QUOTE", "REJECTED: TCB_NOT_SUPPORTED"),
        ("real/gotdx-v5", (), "tdxctl collateral fetch --quote QUOTE", "REJECTED: SGX_CRL_EXPIRED"),
        ("synthetic/ok_v4_mod1", (), "name another root", "REJECTED: SGX_PCK_CERT_CHAIN_UNTRUSTED"),
    ],
)
def test_what_to_do_next(
    capsys: pytest.CaptureFixture[str],
    vectors: Path,
    case: str,
    more: tuple[str, ...],
    hint: str | None,
    verdict: str,
) -> None:
    folder = vectors / "attestation" / case
    meta = folder / "meta.json"
    at = json.loads(meta.read_text())["valid_from"] if meta.exists() else 1781481600
    words = [str(folder / "quote.bin"), "--collateral", str(folder / "collateral.json"), "--at", str(at), *more]
    _, body = run(capsys, "quote", "verify", *words)
    if hint is None:
        assert body["hint"] is None
    else:
        assert body["hint"].startswith(hint.replace("QUOTE", str(folder / "quote.bin")))
    main(["quote", "verify", *words])
    assert f"verdict    {verdict}" in capsys.readouterr().out


def test_collateral_show_and_compare(capsys: pytest.CaptureFixture[str], real: Path, vectors: Path) -> None:
    status, body = run(capsys, "collateral", "show", real / "collateral.json", "--at", NOW)
    assert (status, body["tcb_info"]["fmspc"], body["tcb_info"]["status"]) == (0, "b0c06f000000", "OK")
    assert run(capsys, "collateral", "show", real / "collateral.json")[0] == 5
    synthetic = vectors / "attestation" / "synthetic" / "bad_tcbsig"
    shown = ("collateral", "show", synthetic / "collateral.json", "--at", "1781481600")
    assert run(capsys, *shown, "--trust-root", synthetic / "root.der")[0] == 3
    old, new = (real.parent / name for name in ("zkdcap-v4", "flashbots-dcap-v4"))
    status, body = run(
        capsys,
        "collateral",
        "compare",
        old / "collateral.json",
        new / "collateral.json",
        "--quote",
        new / "quote.bin",
    )
    assert status == 0
    assert (body["old"]["tcb_evaluation_number"], body["new"]["tcb_evaluation_number"]) == (17, 18)
    assert body["falls_out"] == [change["subject"] for change in body["changes"]]
    module = body["changes"][-1]
    assert (module["old"], module["new"]) == ("UpToDate", "OutOfDate")
    assert module["detail"] == "SVN 4 < 6, INTEL-SA-01036, INTEL-SA-01099", "in the order of the document"
    assert body["quotes"][0]["new"] == "UpToDate"


def test_policy(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("[td]\nallow_debug = true\n")
    status, body = run(capsys, "policy", "check", policy)
    assert (status, body["policy"]["td"]) == (0, {"allow_debug": True})
    status, body = run(capsys, "policy", "explain")
    assert status == 0
    assert all(setting["default"] for setting in body["settings"])
    policy.write_text("[td]\nallow_debgu = true\n")
    status, body = run(capsys, "policy", "check", policy)
    assert (status, body["hint"]) == (2, "did you mean allow_debug?")


def test_collateral_of_the_archive(capsys: pytest.CaptureFixture[str], real: Path, tmp_path: Path) -> None:
    """Without --collateral: what was valid at the time, from the archive."""
    bare = ("quote", "verify", real / "quote.bin", "--at", NOW)
    status, body = run(capsys, *bare)
    assert (status, body["authentic"], body["steps"][0]["name"]) == (5, False, "collateral")
    assert main(["collateral", "archive", "add", str(real / "collateral.json")]) == 0
    status, body = run(capsys, *bare)
    assert (status, body["status"]) == (0, "UpToDate")
    status, body = run(capsys, "quote", "verify", real / "quote.bin", "--at", "2030-01-01")
    assert (status, body["authentic"]) == (5, False)
    status, body = run(capsys, "quote", "explain", real / "quote.bin", "--at", NOW)
    assert (status, body["status"]) == (0, "UpToDate")
    noise = tmp_path / "noise"
    noise.write_bytes(b"\x04\0" * 1000)
    status, body = run(capsys, "quote", "verify", noise, "--at", NOW)
    assert (status, body["status"]) == (3, "UNSUPPORTED_QUOTE_FORMAT")


def test_policy_from_prediction(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    prediction = tmp_path / "prediction.json"
    members = {"profile": "p", "mrtd": "aa" * 48, "rtmr": ["bb" * 48, None, "cc" * 48, None]}
    reasons = [None, "boot order", None, "run time"]
    prediction.write_text(
        json.dumps({"schema": "tdxstack/prediction/v1", **members, "reasons": reasons, "events": []})
    )
    assert main(["policy", "from-prediction", str(prediction)]) == 0
    policy = tmp_path / "policy.toml"
    policy.write_text(capsys.readouterr().out)
    status, body = run(capsys, "policy", "check", policy)
    assert status == 0
    assert body["policy"]["td"] == {"mr_tds": ["aa" * 48], "rtmr0": ["bb" * 48], "rtmr2": ["cc" * 48]}
    prediction.write_text("{")
    assert main(["policy", "from-prediction", str(prediction)]) == 2


@pytest.mark.parametrize("name", ["dcapqvl-tdx-v4", "zkdcap-v4", "dcapqvl-tdx-v5-outdated", "dcapqvl-sgx-v3"])
def test_text_for_people(capsys: pytest.CaptureFixture[str], real: Path, name: str) -> None:
    folder = real.parent / name
    evidence = [str(folder / "quote.bin"), "--collateral", str(folder / "collateral.json")]
    at = str(json.loads((folder / "meta.json").read_text())["valid_from"])
    main(["quote", "verify", *evidence, "--at", at])
    main(["quote", "explain", *evidence, "--at", at])
    main(["quote", "show", evidence[0]])
    main(["collateral", "show", evidence[2], "--at", at])
    main(["policy", "explain"])
    out = capsys.readouterr().out
    assert "verdict    " in out
    assert "platform at launch: " in out
