"""The state of a TD outside its memory, as one value: for migration, and for saving a machine and restoring it."""

from __future__ import annotations

import hmac
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tdxstack.errors import UsageError, WireError
from tdxstack.platform.base import TdParameters
from tdxstack.platform.software.status import ModuleError, Status
from tdxstack.platform.software.tcb import PlatformTcb
from tdxstack.platform.software.td import Lifecycle, OpState, ServiceTd, TrustDomain

_MAGIC = b"software TD state"
_HEAD = struct.Struct("<17sBI")
_VERSION = 1
_MAC_SIZE = 32
#: A TD's state is some kilobytes of JSON.
MAX_STATE = 1 << 20
_REGISTERS = ("mrconfigid", "mrowner", "mrownerconfig")


@dataclass(frozen=True, slots=True)
class TdState:
    """What a TD is, beyond its memory and its vCPUs.

    Parameters, launch TCB, MRTD and UUID hold since TDH.MR.FINALIZE; RTMRs and service TDs change.
    """

    parameters: TdParameters
    launch_tcb: PlatformTcb
    mrtd: bytes
    uuid: bytes
    rtmrs: tuple[bytes, ...]
    service_tds: Mapping[int, ServiceTd]

    @classmethod
    def of(cls, td: TrustDomain) -> TdState:
        """The state of a TD.

        Raises:
            ModuleError: it was not initialised.
        """
        if td.parameters is None or td.launch_tcb is None:
            raise ModuleError("TD state", Status.OP_STATE_INCORRECT, detail="TD is UNINITIALIZED")
        return cls(td.parameters, td.launch_tcb, td.mrtd, td.uuid, tuple(td.rtmrs), dict(td.service_tds))

    def put_into(self, td: TrustDomain) -> None:
        """Make a TD be this one."""
        td.parameters, td.launch_tcb, td.mrtd, td.uuid = self.parameters, self.launch_tcb, self.mrtd, self.uuid
        td.rtmrs, td.service_tds = list(self.rtmrs), dict(self.service_tds)

    def to_json(self) -> dict[str, Any]:
        """JSON; byte strings are hex."""
        parameters = asdict(self.parameters)
        return {
            "parameters": parameters | {name: parameters[name].hex() for name in _REGISTERS},
            "launch_tcb": self.launch_tcb.to_json(),
            "mrtd": self.mrtd.hex(),
            "uuid": self.uuid.hex(),
            "rtmrs": [value.hex() for value in self.rtmrs],
            "service_tds": {
                str(slot): {
                    "type": item.type,
                    "attributes": item.attributes,
                    "info_hash": item.info_hash.hex(),
                    "uuid": item.uuid.hex() if item.uuid else None,
                }
                for slot, item in self.service_tds.items()
            },
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TdState:
        """Read what :meth:`to_json` wrote.

        Raises:
            WireError: it is something else.
        """
        try:
            parameters = dict(value["parameters"])
            parameters |= {name: bytes.fromhex(parameters[name]) for name in _REGISTERS}
            state = cls(
                parameters=TdParameters(**parameters),
                launch_tcb=PlatformTcb.from_json(value["launch_tcb"]),
                mrtd=_register(value["mrtd"], 48),
                uuid=_register(value["uuid"], 32),
                rtmrs=tuple(_register(text, 48) for text in value["rtmrs"]),
                service_tds={int(slot): _service(item) for slot, item in value["service_tds"].items()},
            )
            if len(state.rtmrs) != 4:
                raise ValueError(f"{len(state.rtmrs)} RTMRs")
        except (AttributeError, KeyError, TypeError, ValueError, UsageError) as error:
            raise WireError("software TD state", "JSON", 0, str(error)) from None
        return state

    def to_bytes(self) -> bytes:
        """Compact JSON in UTF-8."""
        return json.dumps(self.to_json(), separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> TdState:
        """Read what :meth:`to_bytes` wrote.

        Raises:
            WireError: it is something else.
        """
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise WireError("software TD state", "JSON", 0, str(error)) from None
        if not isinstance(value, dict):
            raise WireError("software TD state", "JSON", 0, "not an object")
        return cls.from_json(value)


def _register(text: str, size: int) -> bytes:
    value = bytes.fromhex(text)
    if len(value) != size:
        raise ValueError(f"{len(value)} bytes, not {size}")
    return value


def _service(item: Mapping[str, Any]) -> ServiceTd:
    uuid = _register(item["uuid"], 32) if item["uuid"] is not None else None
    return ServiceTd(int(item["type"]), int(item["attributes"]), _register(item["info_hash"], 48), uuid)


def save(td: TrustDomain) -> bytes:
    """State of a running TD, sealed to its platform: for a machine whose memory is saved beside it.

    TDX hardware has nothing like it: a TD leaves it only by migration.

    Raises:
        ModuleError: the TD does not run.
    """
    td.require("software save", Lifecycle.KEYS_CONFIGURED, OpState.RUNNABLE)
    body = TdState.of(td).to_bytes()
    head = _HEAD.pack(_MAGIC, _VERSION, len(body))
    return head + body + hmac.digest(td.key, head + body, "sha256")


def restore(td: TrustDomain, data: bytes) -> None:
    """Make a created, keyed and not yet initialised TD be the one that was saved.

    Raises:
        ModuleError: wrong state, or the state was saved on another platform or changed (INCORRECT_MBMD_MAC).
        WireError: not a saved state.
    """
    td.require("software restore", Lifecycle.KEYS_CONFIGURED, OpState.UNINITIALIZED)
    if not _HEAD.size + _MAC_SIZE <= len(data) <= MAX_STATE:
        raise WireError("software TD state", "length", 0, f"{len(data)} bytes")
    magic, version, length = _HEAD.unpack_from(data)
    if magic != _MAGIC or version != _VERSION or length != len(data) - _HEAD.size - _MAC_SIZE:
        raise WireError("software TD state", "header", 0, "not a saved TD state of this version")
    if not hmac.compare_digest(hmac.digest(td.key, data[:-_MAC_SIZE], "sha256"), data[-_MAC_SIZE:]):
        raise ModuleError(
            "software restore", Status.INCORRECT_MBMD_MAC, detail="saved on another platform, or changed"
        )
    TdState.from_bytes(data[_HEAD.size : -_MAC_SIZE]).put_into(td)
    td.op_state = OpState.RUNNABLE
