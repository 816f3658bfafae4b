"""``tdxctl measure`` as its users and scripts see it."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from firmware_file import GENERIC_4M, firmware_file
from tdxstack.cli.main import main
from tdxstack.measure.mrtd import MrtdOrder, mrtd
from tdxstack.vm.marker_kernel import marker_kernel

BOOT = Path(__file__).parents[3] / "vectors" / "measure" / "direct-boot"


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(capsys.readouterr().out)
    return body


@pytest.fixture
def firmware(tmp_path: Path) -> Path:
    path = tmp_path / "OVMF.fd"
    path.write_bytes(firmware_file(GENERIC_4M))
    return path


def test_mrtd(firmware: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measure", "mrtd", str(firmware), "--json"]) == 0
    body = document(capsys)
    data = firmware.read_bytes()
    assert body["schema"] == "tdxstack/mrtd/v1"
    assert body["single_pass"] == mrtd(data).hex()
    assert body["two_pass"] == mrtd(data, MrtdOrder.TWO_PASS).hex()
    assert body["measures_boot"] is False
    assert [section["type"] for section in body["sections"]][:2] == ["BFV", "CFV"]
    assert main(["measure", "mrtd", str(firmware)]) == 0
    assert "extends no RTMR" in capsys.readouterr().out


def test_a_split_code_file_fails_with_the_way_out(
    firmware: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = tmp_path / "OVMF_CODE.fd"
    split.write_bytes(firmware.read_bytes()[0x84000:])
    assert main(["measure", "mrtd", str(split), "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["error"] == "WireError"
    assert "single-file OVMF.fd" in captured.err


@pytest.fixture
def predict_argv(firmware: Path, tmp_path: Path) -> list[str]:
    files = json.loads(gzip.decompress((BOOT / "blobs.json.gz").read_bytes()))
    for name, text in files.items():
        path = tmp_path / "blobs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(text))
    (tmp_path / "vmlinuz").write_bytes(marker_kernel())
    (tmp_path / "initrd").write_bytes(b"initrd")
    return [
        *("measure", "predict", "--firmware", str(firmware), "--memory", "2G", "--kernel", str(tmp_path / "vmlinuz")),
        *("--initrd", str(tmp_path / "initrd"), "--cmdline", "quiet", "--blobs", str(tmp_path / "blobs")),
    ]


def test_predict(predict_argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*predict_argv, "--json"]) == 0
    body = document(capsys)
    assert body["schema"] == "tdxstack/prediction/v1"
    assert body["profile"].startswith("software-")
    assert body["rtmr"] == ["00" * 48] * 4, "the made-up firmware measures nothing"
    assert main(predict_argv) == 0
    assert "profile" in capsys.readouterr().out


def test_a_tds_file_stands_for_the_options(
    predict_argv: list[str], firmware: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*predict_argv, "--vcpus", "1", "--json"]) == 0
    by_options = document(capsys)
    settings = {"firmware": "OVMF.fd", "memory": "2G", "kernel": "vmlinuz", "initrd": "initrd", "cmdline": "quiet"}
    file = tmp_path / "td.toml"
    file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
    blobs = ["--blobs", str(tmp_path / "blobs"), "--json"]
    assert main(["measure", "predict", "--spec", str(file), *blobs]) == 0
    assert document(capsys) == by_options
    assert main(["measure", "predict", "--spec", str(file), "--td", "x"]) == 2
    assert main(["measure", "predict", "--spec", str(tmp_path / "none"), *blobs]) == 2


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("202411", "software-202411"),
        ("edk2-stable202602", "software-202508"),
        ("software-edk2-stable202305", "software-202408"),
        ("software-202208", "software-202211"),
    ],
)
def test_profiles_by_release(
    given: str, taken: str, predict_argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*predict_argv, "--profile", given, "--json"]) == 0
    assert document(capsys)["profile"] == taken


def test_a_firmware_that_cannot_be_right_is_told_before_it_is_run(
    predict_argv: list[str], firmware: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    firmware.write_bytes(firmware.read_bytes()[4096:])
    assert main([*predict_argv[:-2], "--json"]) == 1
    assert document(capsys)["error"] == "WireError"


def test_predict_unknown_profile(predict_argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*predict_argv, "--profile", "other"]) == 2
    assert "tdx-202411" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["json", "rvps"])
def test_reference_values(predict_argv: list[str], form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*predict_argv, "--reference-values", form]) == 0
    body = document(capsys)
    if form == "rvps":
        assert body["type"] == "sample"
        body = json.loads(base64.b64decode(body["payload"]))
    assert set(body) == {"mr_td", "rtmr_0", "rtmr_1", "rtmr_2", "rtmr_3"}
    assert len(body["mr_td"][0]) == 96


def test_nothing_to_predict(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measure", "predict"]) == 2
    assert "--td NAME" in capsys.readouterr().err


@pytest.mark.parametrize("memory", ["", "zz", "-1", "1.5G", "0", "3K"])
def test_no_machine_has_such_memory(memory: str, firmware: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measure", "predict", "--firmware", str(firmware), f"--memory={memory}"]) == 2
    assert "memory" in capsys.readouterr().err


@pytest.mark.processes
def test_a_machine_that_qemu_refuses_is_told_in_qemus_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TDXSTACK_HOME", str(tmp_path / "home"))
    (tmp_path / "OVMF.fd").write_bytes(firmware_file(GENERIC_4M))
    (tmp_path / "kernel").write_bytes(marker_kernel())
    argv = ["measure", "predict", "--firmware", str(tmp_path / "OVMF.fd"), "--kernel", str(tmp_path / "kernel")]
    assert main([*argv, "--device", "no-such-device", "--no-disk", "--json"]) == 1
    message = json.loads(capsys.readouterr().out)["message"]
    assert "'no-such-device' is not a valid device model name" in message
