"""Rules on the boot: a real quote with the event log of its boot, and logs that were changed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tdxstack.cli.main import main
from tdxstack.dcap import Verification, Verifier
from tdxstack.dcap.appraisal import appraise
from tdxstack.dcap.collateral import Collateral
from tdxstack.dcap.event_rules import Rule
from tdxstack.dcap.policy import Policy
from tdxstack.measure.boot import BootRecord, CommandLine, _tagged, boot_record, read_boot
from tdxstack.wire.tcg import Algorithm, Digest, Event, EventLog, EventType


@pytest.fixture(scope="module")
def folder(vectors: Path) -> Path:
    return vectors / "measurement" / "gce-cos-113"


@pytest.fixture(scope="module")
def verification(folder: Path) -> Verification:
    verifier = Verifier(Collateral.salvage("{}"))
    return verifier.verify((folder / "cos-113-tdx-quote.dat").read_bytes(), now=1720000000)


@pytest.fixture(scope="module")
def log(folder: Path) -> bytes:
    return (folder / "ccel_data.dat").read_bytes()


def rules(verification: Verification, events: dict[str, Any], boot: BootRecord | None) -> dict[str, Rule]:
    appraisal = appraise(verification, Policy.from_members({"events": events}), boot=boot)
    return {rule.name: rule for rule in appraisal.rules if rule.name.startswith("events.")}


def test_nothing_asked_nothing_given(verification: Verification) -> None:
    assert rules(verification, {}, None) == {}


@pytest.mark.parametrize("asked", [{"require_log": True}, {"command_lines": ["quiet"]}, {"kernels": "00" * 48}])
def test_without_a_log_no_rule_on_events_holds(verification: Verification, asked: dict[str, Any]) -> None:
    rule = rules(verification, asked, None)["events.require_log"]
    assert (rule.holds, rule.actual) == (False, "no event log")


def test_a_real_log_replays(verification: Verification, log: bytes) -> None:
    found = rules(verification, {}, read_boot(log))
    assert found["events.require_log"].holds, found


def test_what_was_booted(verification: Verification, log: bytes) -> None:
    boot = read_boot(log)
    [line] = boot.command_lines
    assert line.text is not None
    assert line.text.startswith("/syslinux/vmlinuz.A init=/usr/lib/systemd/systemd ")
    assert len(boot.images) == 3  # shim, GRUB, and the kernel that GRUB loaded
    good = {
        "kernels": [image.hex() for image in boot.images],
        "command_lines": [line.text],
        **{
            name: hashlib.sha256(boot.variables[variable]).hexdigest()
            for name, variable in (("pk", "PK"), ("kek", "KEK"), ("db", "db"), ("dbx", "dbx"))
        },
        "authorities": [hashlib.sha256(value).hexdigest() for value in boot.authorities],
    }
    assert all(rule.holds for rule in rules(verification, good, boot).values())
    good["command_lines"] = [line.text.partition(" ")[2]]
    assert rules(verification, good, boot)["events.command_lines"].holds
    for name, other in (
        ("kernels", good["kernels"][:2]),
        ("command_lines", [line.text + " debug"]),
        ("pk", "00" * 32),
        ("kek", "00" * 32),
        ("db", "00" * 32),
        ("dbx", "00" * 32),
        ("authorities", good["authorities"][:1]),
        ("initrds", ["00" * 48]),
        ("require_secure_boot", True),
    ):
        failed = [rule for rule in rules(verification, good | {name: other}, boot).values() if not rule.holds]
        assert [rule.name for rule in failed] == [f"events.{name}"]
        assert failed[0].wanted != failed[0].actual


def test_a_log_of_something_else(verification: Verification, log: bytes) -> None:
    first, _ = EventLog.read(log)
    shorter = EventLog(first.header, first.events[:-4])
    assert not rules(verification, {}, boot_record(shorter))["events.require_log"].holds
    assert not rules(verification, {}, read_boot(b"no log"))["events.require_log"].holds


def test_a_false_command_line_is_no_fact(verification: Verification, log: bytes) -> None:
    """The digest that was extended is kept, so that the log replays; its text is another."""
    changed = log.replace(b"kernel_cmdline: /syslinux/vmlinuz.A", b"kernel_cmdline: /syslinux/vmlinuz.B")
    boot = read_boot(changed)
    assert boot.command_lines[0].text is None
    wanted = {"command_lines": ["/syslinux/vmlinuz.B init=/usr/lib/systemd/systemd"]}
    found = rules(verification, wanted, boot)
    assert not found["events.command_lines"].holds
    assert "not what the log says" in found["events.require_log"].actual


def test_a_false_variable_is_no_fact(verification: Verification, log: bytes) -> None:
    first, _ = EventLog.read(log)
    events = list(first.events)
    at = next(i for i, e in enumerate(events) if e.event_type == EventType.EV_EFI_VARIABLE_DRIVER_CONFIG)
    event = events[at]  # SecureBoot, off
    events[at] = Event(event.mr_index, event.event_type, event.digests, event.data[:-1] + b"\1")
    boot = boot_record(EventLog(first.header, tuple(events)))
    assert "SecureBoot" not in boot.variables
    assert not rules(verification, {"require_secure_boot": True}, boot)["events.require_secure_boot"].holds


def test_load_options_are_compared_by_digest(verification: Verification) -> None:
    """The EFI stub's event has no text: the digest is that of UTF-16 with a final NUL."""
    body: Any = verification.quote and verification.quote.body
    for text in ("ro quiet", "initrd=initrd ro quiet", "ro quiet initrd=initrd"):
        digest = hashlib.sha384((text + "\0").encode("utf-16-le")).digest()
        boot = BootRecord(body.rtmrs, (True,) * 4, [], command_lines=[CommandLine(digest)])
        assert rules(verification, {"command_lines": ["ro quiet"]}, boot)["events.command_lines"].holds
        assert not rules(verification, {"command_lines": ["ro"]}, boot)["events.command_lines"].holds


def test_events_of_the_stub_are_found() -> None:
    tag = b"\xed\x22\x36\x8f" + (25).to_bytes(4, "little") + b"LOADED_IMAGE::LoadOptions"
    event = Event(3, EventType.EV_EVENT_TAG, (Digest(Algorithm.SHA384, b"\x05" * 48),), tag)
    record = BootRecord((bytes(48),) * 4, (False,) * 4, [])
    _tagged(event, b"\x05" * 48, record)
    assert record.command_lines == [CommandLine(b"\x05" * 48)]


def test_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[events]\nrequire_log = true\ncommand_lines = ["quiet"]\n')
    argv = ["quote", "verify", str(folder / "cos-113-tdx-quote.dat"), "--collateral", str(tmp_path / "none")]
    argv += ["--at", "1720000000", "--policy", str(policy), "--json"]
    assert main([*argv, "--event-log", str(folder / "ccel_data.dat")]) == 5
    found = {rule["name"]: rule for rule in json.loads(capsys.readouterr().out)["policy"]["rules"]}
    assert found["events.require_log"]["outcome"] == "pass"
    assert found["events.command_lines"]["outcome"] == "fail"
    assert "/syslinux/vmlinuz.A" in found["events.command_lines"]["actual"]
    assert main([*argv, "--ima", "x"]) == 2
