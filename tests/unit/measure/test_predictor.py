"""A prediction held against the log of a real boot, event by event; and what changes when the inputs do."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from firmware_file import firmware_file, layout_4m
from recorded_boot import BOOT, CMDLINE, FIRMWARE, GIB, inputs, recorded_blobs, recorded_facts
from tdxstack.errors import UsageError
from tdxstack.measure import FirmwareBlobs, Prediction, diff, mrtd, predict, replay
from tdxstack.measure.difference import explain_change
from tdxstack.measure.firmware import PROFILES
from tdxstack.measure.launch import launch_events
from tdxstack.measure.prediction import PredictedEvent
from tdxstack.measure.replay import replay_tpm
from tdxstack.vm.marker_kernel import marker_kernel
from tdxstack.wire.efi.variable import GLOBAL_VARIABLE, VariableData, load_option
from tdxstack.wire.ima import read_list
from tdxstack.wire.tcg import Algorithm, Digest, Event, EventLog, EventType, SpecIdEvent, cc_log_of_tpm_log


def recorded_log() -> EventLog:
    tpm = EventLog.from_bytes((BOOT / "tpmlog").read_bytes())
    return cc_log_of_tpm_log(tpm, launch_events(FIRMWARE, 2 * GIB))


def log_of(prediction: Prediction) -> EventLog:
    """The log that a boot as predicted leaves."""
    events = tuple(
        Event(event.rtmr + 1, event.event_type, (Digest(Algorithm.SHA384, event.digest),), b"")
        for event in prediction.events
        if event.logged and event.digest is not None
    )
    return EventLog(SpecIdEvent(), events)


def test_every_event_of_the_real_boot_but_kernel_and_initrd() -> None:
    prediction = predict(inputs())
    for rtmr in range(4):
        logged = [event for event in recorded_log().events if event.mr_index == rtmr + 1]
        expected = [event for event in prediction.of_register(rtmr) if event.logged]
        assert [event.event_type for event in expected] == [event.event_type for event in logged]
        for want, have in zip(expected, logged, strict=True):
            assert want.name in ("kernel", "initrd") or want.digest == have.digest(), want.name


def test_rtmr0_is_the_boots() -> None:
    prediction = predict(inputs())
    assert prediction.rtmr[0] == replay(recorded_log()).rtmr[0]
    assert prediction.rtmr[3] == bytes(48)
    assert prediction.mrtd == mrtd(FIRMWARE)
    assert prediction.reasons == (None,) * 4
    assert prediction.profile == "software-202508"


def test_boot_aggregate_follows_from_the_pcrs() -> None:
    """The prediction's own PCRs 0..9 are those that the TPM's log of the boot leads to, but for kernel and initrd."""
    from tdxstack.measure.pcr import BOOT_AGGREGATE, PcrBank, boot_aggregate_template

    tpm = EventLog.from_bytes((BOOT / "tpmlog").read_bytes())
    bank = PcrBank(dict(replay_tpm(tpm, Algorithm.SHA384)))
    pcrs = b"".join(bank.values.get(pcr) or bytes(48) for pcr in range(10))
    assert bank.boot_aggregate() == hashlib.sha384(pcrs).digest()
    bank.extend(3, None)
    assert bank.boot_aggregate() is None
    # The fields are those of the kernel's own entry, whose digest is of another length.
    (entry, *_) = read_list((BOOT / "ima.bin").read_bytes())
    aggregate = bytes.fromhex(entry.file_digest.partition(":")[2])
    theirs = entry.template_data.replace(b"sha256", b"sha384").replace(aggregate, bytes(48))
    assert boot_aggregate_template(bytes(48)) == struct.pack("<I", 8 + 48) + theirs[4:]
    assert BOOT_AGGREGATE in theirs


def test_with_ima_rtmr2_is_not_known_but_how_it_begins() -> None:
    with_ima = predict(inputs(ima=True))
    *boot, aggregate, entries = with_ima.of_register(2)
    assert [event.digest for event in boot] == [event.digest for event in predict(inputs()).of_register(2)]
    assert (aggregate.name, aggregate.logged, entries.digest) == ("IMA boot_aggregate", False, None)
    assert aggregate.digest is not None
    assert with_ima.rtmr[2] is None
    assert "eventlog replay --ima" in str(with_ima.reasons[2])
    unknown = predict(inputs(blobs=None, ima=True)).of_register(2)
    assert unknown[-2].digest is None, "IMA's first entry is computed from PCR 1"
    on_hardware = predict(inputs(ima=True, profile="tdx")).of_register(2)
    assert on_hardware[-2].why == "unknown without a TPM"


def test_a_boot_as_predicted_has_no_difference() -> None:
    assert diff(predict(inputs()), log_of(predict(inputs()))) is None


def other_kernel() -> bytes:
    kernel = bytearray(marker_kernel())
    kernel[-1] ^= 1
    return bytes(kernel)


@pytest.mark.parametrize(
    ("changes", "rtmr", "name", "words"),
    [
        ({"kernel": other_kernel()}, 1, "kernel", "another kernel"),
        ({"initrd": b"another"}, 2, "initrd", "another initrd"),
        ({"cmdline": CMDLINE + " single"}, 2, "command line", "command line"),
        ({"memory_bytes": GIB}, 0, "TD HOB", "memory size"),
        ({"firmware": FIRMWARE[:100] + b"!" + FIRMWARE[101:]}, 0, "configuration volume", "secure boot keys"),
    ],
)
def test_each_change_is_found_and_named(changes: dict[str, object], rtmr: int, name: str, words: str) -> None:
    expected, booted = predict(inputs()), predict(inputs(**changes))
    assert next(number for number in range(4) if expected.rtmr[number] != booted.rtmr[number]) == min(rtmr, 2)
    difference = diff(expected, log_of(booted))
    assert difference is not None
    assert difference.expected is not None
    assert (difference.rtmr, difference.expected.name) == (rtmr, name)
    assert words in difference.cause
    assert difference.advice


@pytest.mark.parametrize(
    ("cmdline", "words"),
    [
        (CMDLINE.replace("ttyS0", "hvc0"), "differs at `console=`: the TD had `console=hvc0`"),
        (CMDLINE + " single", "the TD had `single` besides"),
        ("console=ttyS0 panic=-1", "`quiet` is missing"),
        ("something else", "the log holds its digest alone"),
    ],
)
def test_neighbours_of_the_command_line_are_recognised(cmdline: str, words: str) -> None:
    difference = diff(predict(inputs()), log_of(predict(inputs(cmdline=cmdline))))
    assert difference is not None
    assert words in difference.cause


def test_the_place_of_the_initrd_word_tells_the_firmware() -> None:
    old = predict(inputs(profile="software-202505"))
    text = next(event for event in old.events if event.name == "command line")
    new = predict(inputs())
    events = tuple(text if event.name == "command line" else event for event in new.events)
    difference = diff(new, log_of(replace(new, events=events)))
    assert difference is not None
    assert "edk2 before stable202508" in difference.cause


def test_what_grub_logs_is_compared_by_words() -> None:
    def one(text: str) -> PredictedEvent:
        digest = hashlib.sha384(text.encode()).digest()
        return PredictedEvent(2, EventType.EV_IPL, digest, f"kernel_cmdline: {text}", "test")

    for booted, words in (
        ("/vmlinuz root=x console=hvc0", "kernel_cmdline differs at `console=`: the TD had `console=hvc0`"),
        ("/vmlinuz root=x", "`console=ttyS0` is missing"),
        ("/vmlinuz root=x console=ttyS0 single", "the TD had `single` besides"),
    ):
        expected, logged = one("/vmlinuz root=x console=ttyS0"), one(booted)
        digest = Digest(Algorithm.SHA384, logged.digest or b"")
        event = Event(3, EventType.EV_IPL, (digest,), logged.name.encode() + b"\0")
        assert words in explain_change(expected, event)[0]


def test_a_mac_address_in_a_boot_option_is_named() -> None:
    node = bytes((3, 11, 37, 0)) + bytes.fromhex("525400123456") + bytes(27)
    value = load_option("UEFI PXEv4", node)
    data = VariableData(GLOBAL_VARIABLE, "Boot0002", value).to_bytes()
    digest = Digest(Algorithm.SHA384, hashlib.sha384(value).digest())
    event = Event(1, EventType.EV_EFI_VARIABLE_BOOT, (digest,), data)
    expected = PredictedEvent(0, EventType.EV_EFI_VARIABLE_BOOT, bytes(48), "variable Boot0002", "test")
    assert explain_change(expected, event)[0].startswith("MAC address 52:54:00:12:34:56 is in Boot0002")


def test_a_patched_kernel_is_recognised() -> None:
    old = inputs(blobs=FirmwareBlobs(tuple(item for item in recorded_blobs().files if item[0] != "etc/boot/kernel")))
    difference = diff(predict(inputs()), log_of(predict(old)))
    assert difference is not None
    assert "QEMU before 10.0" in difference.cause
    difference = diff(predict(old), log_of(predict(inputs())))
    assert difference is not None
    assert "unpatched" in difference.cause


def test_missing_and_additional_events_are_told_apart() -> None:
    log = log_of(predict(inputs()))
    without = [event for event in log.events if event.event_type != EventType.EV_EFI_HANDOFF_TABLES]
    difference = diff(predict(inputs()), replace(log, events=tuple(without)))
    assert difference is not None
    assert difference.logged is None
    assert "missing" in difference.cause
    extra = Event(1, EventType.EV_EFI_ACTION, (Digest(Algorithm.SHA384, bytes(48)),), b"surprise")
    difference = diff(predict(inputs()), replace(log, events=(*log.events[:6], extra, *log.events[6:])))
    assert difference is not None
    assert difference.expected is None
    assert "surprise" in difference.cause


def test_what_is_not_known_is_said() -> None:
    prediction = predict(inputs(blobs=None))
    assert prediction.rtmr[0] is None
    assert prediction.reasons[0] is not None
    assert "ACPI" in prediction.reasons[0]
    assert prediction.rtmr[1] is not None
    assert prediction.rtmr[2] is not None
    assert diff(prediction, log_of(predict(inputs()))) is not None


def test_without_kernel_and_disk_what_the_firmware_starts_is_unknown() -> None:
    prediction = predict(inputs(kernel=None))
    assert [event.name for event in prediction.events if event.digest is None] == [
        "variable BootOrder",
        "boot loader",
        "operating system",
    ]
    assert all(prediction.reasons[number] for number in range(3))


def test_boot_options_of_the_firmwares_run_take_precedence() -> None:
    blobs = replace(recorded_blobs(), boot_options=(("BootOrder", b"\7\0"), ("Boot0007", b"option")))
    names = [event.name for event in predict(inputs(blobs=blobs)).of_register(0)]
    assert [name for name in names if name.startswith("variable Boot")] == ["variable BootOrder", "variable Boot0007"]


def test_a_firmware_that_measures_nothing() -> None:
    facts = replace(recorded_facts(), measures_tpm=False)
    assert predict(inputs(facts=facts)).rtmr == (bytes(48),) * 4


def test_profiles_of_hardware() -> None:
    new = predict(inputs(profile="tdx"))
    assert new.profile == "tdx-202508"
    names = [event.name for event in new.of_register(0)]
    assert names[2:4] == ["fw_cfg BootMenu", "fw_cfg bootorder"]
    assert [event.name for event in new.of_register(1)] == [
        "kernel",
        "boot attempt",
        "separator",
        "exit boot services",
        "exit boot services",
    ]
    assert [event.name for event in new.of_register(2)] == ["command line", "initrd"]
    old = predict(inputs(profile="tdx-202408"))
    assert old.of_register(0)[-1].name == "separator"
    assert "separator" not in [event.name for event in old.of_register(1)]
    assert set(PROFILES) >= {"software-202508", "tdx-202411"}
    with pytest.raises(UsageError, match="profile"):
        predict(inputs(profile="tdx-1999"))


@pytest.mark.parametrize(
    ("profile", "initrd", "text"),
    [
        ("tdx-202508", b"i", f"initrd=initrd {CMDLINE}"),
        ("tdx-202505", b"i", f"{CMDLINE} initrd=initrd"),
        ("tdx-202508", None, CMDLINE),
    ],
)
def test_command_line_text(profile: str, initrd: bytes | None, text: str) -> None:
    (event,) = [one for one in predict(inputs(profile=profile, initrd=initrd)).events if one.name == "command line"]
    assert event.digest == hashlib.sha384((text + "\0").encode("utf-16-le")).digest()


#: RTMR0 events of a TD on hardware behind the two of the launch; the fixture has Ubuntu's firmware and no TPM.
def test_rtmr0_of_a_td_on_hardware(vectors: Path) -> None:
    folder = vectors / "measurement" / "rtmr0-fixture"
    tables = (folder / "acpi_tables.bin").read_bytes()
    expected = json.loads((folder / "expected.json").read_text())["rtmr0"]
    from tdxstack.measure.acpi_blobs import loader_of_tables, rsdp_of_tables

    blobs = FirmwareBlobs(
        (
            ("etc/table-loader", loader_of_tables(tables)),
            ("etc/acpi/rsdp", rsdp_of_tables(tables)),
            ("etc/acpi/tables", tables),
        )
    )
    cfv = bytes.fromhex(
        "344bc51c980ba621aaa00da3ed7436f7d6e549197dfe699515dfa2c6583d95e6412af21c097d473155875ffd561d6790"
    )
    prediction = predict(
        inputs(firmware=firmware_file(layout_4m((0x811000, 0xF000))), blobs=blobs, profile="tdx-202411")
    )
    from tdxstack.measure.rtmr import fold

    digests = [cfv if event.name == "configuration volume" else event.digest for event in prediction.of_register(0)]
    assert fold(digest for digest in digests if digest).hex() == expected


def test_kernel_patching_matches_the_boot_protocol() -> None:
    from tdxstack.measure.linux import patched_by_qemu

    kernel = marker_kernel()
    patched = patched_by_qemu(kernel, initrd_size=0x1234, cmdline="vga=0x317 quiet", memory_bytes=2 * GIB)
    changed = {offset for offset in range(len(kernel)) if kernel[offset] != patched[offset]}
    assert changed <= {0x1FA, 0x1FB, 0x210, 0x211, *range(0x218, 0x220), 0x224, 0x225, *range(0x228, 0x22C)}
    address, size = struct.unpack_from("<II", patched, 0x218)
    assert (address, size) == ((0x7FFD7FFF - 0x1234) & ~0xFFF, 0x1234)
    assert struct.unpack_from("<H", patched, 0x1FA) == (0x317,)
