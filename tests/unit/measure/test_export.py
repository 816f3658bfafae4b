from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tdxstack.errors import UsageError
from tdxstack.measure.export import event_settings, prediction_from_members, prediction_members, reference_values
from tdxstack.measure.prediction import PredictedEvent, Prediction
from tdxstack.wire.tcg import EventType

PREDICTION = Prediction(
    "software-202508",
    b"m" * 48,
    (None, b"1" * 48, b"2" * 48, bytes(48)),
    (
        PredictedEvent(0, EventType.EV_SEPARATOR, None, "separator", "unknown because"),
        PredictedEvent(1, 0x12345678, b"d" * 48, "kernel", "why", alternatives=(("patched", b"p" * 48),)),
        PredictedEvent(2, EventType.EV_EVENT_TAG, b"i" * 48, "IMA", "why", logged=False),
    ),
    ("separator: unknown because", None, None, None),
)


def test_what_is_written_is_read() -> None:
    members = json.loads(json.dumps(prediction_members(PREDICTION)))
    assert prediction_from_members(members) == PREDICTION


def test_unknown_registers_are_no_reference_values() -> None:
    assert set(reference_values(PREDICTION)) == {"mr_td", "rtmr_1", "rtmr_2", "rtmr_3"}


def test_what_a_policy_asks_of_the_log_where_ima_extends_rtmr2() -> None:
    tag, ipl = EventType.EV_EVENT_TAG, EventType.EV_IPL
    boot = (
        PredictedEvent(2, ipl, b"g" * 48, "kernel_cmdline: /vmlinuz ro", "why"),
        PredictedEvent(2, tag, b"c" * 48, "command line", "why", text="BOOT_IMAGE=/vmlinuz ro"),
        PredictedEvent(2, tag, b"i" * 48, "initrd", "why"),
    )
    ima = PredictedEvent(2, tag, None, "IMA entries", "unknown", logged=False)
    assert event_settings(replace(PREDICTION, events=boot)) == {}
    assert event_settings(replace(PREDICTION, events=(*boot, ima))) == {
        "require_log": True,
        "command_lines": ["BOOT_IMAGE=/vmlinuz ro", "/vmlinuz ro"],
        "initrds": [(b"i" * 48).hex()],
    }
    unknown = replace(boot[2], digest=None)
    assert event_settings(replace(PREDICTION, events=(*boot[:2], unknown, ima))) == {}


@pytest.mark.parametrize(
    "document", [{}, [], {"rtmr": []}, {"rtmr": [None] * 4, "mrtd": "zz", "profile": "x", "events": []}]
)
def test_what_is_no_prediction(document: object) -> None:
    with pytest.raises(UsageError, match="not a prediction"):
        prediction_from_members(document)
