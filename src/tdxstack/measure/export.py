"""Reference values from a prediction, in the forms that verifiers take."""

from __future__ import annotations

import base64
import json
from typing import Any

from tdxstack.errors import UsageError
from tdxstack.measure.describe import describe
from tdxstack.measure.prediction import PredictedEvent, Prediction
from tdxstack.measure.replay import replay
from tdxstack.measure.rtmr import COUNT
from tdxstack.wire.tcg import Event, EventLog, EventType, event_type_name

#: Names of the registers in Trustee's TDX claims.
_IMA_RTMR = 2
#: What GRUB's measurement of a command line is called.
_GRUB = "kernel_cmdline: "
_NAMES = ("rtmr_0", "rtmr_1", "rtmr_2", "rtmr_3")


def prediction_members(prediction: Prediction) -> dict[str, Any]:
    """The prediction as plain values, for ``tdxstack/prediction/v1``."""
    return {
        "profile": prediction.profile,
        "mrtd": prediction.mrtd.hex(),
        "rtmr": [None if value is None else value.hex() for value in prediction.rtmr],
        "reasons": list(prediction.reasons),
        "events": [
            {
                "rtmr": event.rtmr,
                "type": event_type_name(event.event_type),
                "name": event.name,
                "digest": None if event.digest is None else event.digest.hex(),
                "why": event.why,
                "logged": event.logged,
                "alternatives": {circumstance: value.hex() for circumstance, value in event.alternatives},
                "text": event.text,
            }
            for event in prediction.events
        ],
    }


def reference_values(prediction: Prediction) -> dict[str, list[str]]:
    """Register -> accepted values; registers that cannot be predicted are left out."""
    values = {"mr_td": [prediction.mrtd.hex()]}
    values |= {name: [value.hex()] for name, value in zip(_NAMES, prediction.rtmr, strict=True) if value is not None}
    return values


def rvps_message(prediction: Prediction) -> dict[str, str]:
    """A message of type ``sample`` for Trustee's Reference Value Provider Service."""
    payload = json.dumps(reference_values(prediction)).encode()
    return {"version": "0.1.0", "type": "sample", "payload": base64.b64encode(payload).decode()}


def event_settings(prediction: Prediction) -> dict[str, Any]:
    """Settings of a policy's ``[events]`` that hold RTMR2's boot where IMA extends the register by what runs later.

    Empty where the register's value says it all, or where the boot itself is not known.
    """
    boot = [event for event in prediction.of_register(_IMA_RTMR) if event.logged]
    if len(boot) == len(prediction.of_register(_IMA_RTMR)) or any(event.digest is None for event in boot):
        return {}
    texts = [event.text for event in boot if event.text is not None]
    texts += [event.name.removeprefix(_GRUB) for event in boot if event.name.startswith(_GRUB)]
    initrds = [event.digest.hex() for event in boot if event.digest and event.name == "initrd"]
    settings: dict[str, Any] = {"require_log": True}
    settings |= {"command_lines": texts} if texts else {}
    return settings | ({"initrds": initrds} if initrds else {})


def prediction_from_members(members: Any) -> Prediction:
    """The prediction that :func:`prediction_members` wrote.

    Raises:
        UsageError: it is not one.
    """
    try:
        rtmr = [None if value is None else bytes.fromhex(value) for value in members["rtmr"]]
        reasons = members.get("reasons", [None] * 4)
        first, second, third, fourth = rtmr
        return Prediction(
            str(members["profile"]),
            bytes.fromhex(members["mrtd"]),
            (first, second, third, fourth),
            tuple(_event(item) for item in members["events"]),
            (reasons[0], reasons[1], reasons[2], reasons[3]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        hint = "make it by `tdxctl measure predict --json`"
        raise UsageError(f"not a prediction: {type(error).__name__}: {error}", hint=hint) from None


def _event(item: dict[str, Any]) -> PredictedEvent:
    kind = item["type"]
    return PredictedEvent(
        int(item["rtmr"]),
        EventType[kind].value if kind in EventType.__members__ else int(kind, 16),
        None if item["digest"] is None else bytes.fromhex(item["digest"]),
        str(item.get("name", kind)),
        str(item["why"]),
        bool(item.get("logged", True)),
        tuple((str(name), bytes.fromhex(value)) for name, value in item.get("alternatives", {}).items()),
        None if item.get("text") is None else str(item["text"]),
    )


def prediction_of_log(log: EventLog) -> Prediction:
    """A prediction that says: as in this log. For comparing a boot with one that was good."""
    events = tuple(
        PredictedEvent(
            event.mr_index - 1, event.event_type, event.digest(), _name(event), "as in the log of a good boot"
        )
        for event in log.events
        if 1 <= event.mr_index <= COUNT and event.event_type != EventType.EV_NO_ACTION
    )
    first, second, third, fourth = replay(log).rtmr
    return Prediction("log", bytes(48), (first, second, third, fourth), events, (None, None, None, None))


def _name(event: Event) -> str:
    """The name under which a prediction has such an event, or its description."""
    known = {
        EventType.EV_EFI_HANDOFF_TABLES2: "TD HOB",
        EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB2: "configuration volume",
        EventType.EV_EFI_HANDOFF_TABLES: "SMBIOS tables",
        EventType.EV_SEPARATOR: "separator",
        EventType.EV_EFI_BOOT_SERVICES_APPLICATION: "kernel",
    }
    words = describe(event)
    if event.data == b"ACPI DATA":
        return "ACPI tables"
    if words.startswith("variable "):
        return words.partition(":")[0]
    if words.startswith("kernel command line"):
        return "command line"
    return known.get(EventType(event.event_type), words) if event.event_type in list(EventType) else words
