"""Export and import of a TD's state (TDH.EXPORT.*, TDH.IMPORT.*), with the states and tokens of TD migration.

Source: Intel TDX Module v1.5 TD Migration specification. The memory itself travels in QEMU's stream; here is what the
module adds: TD state, start token and abort token, each a migration bundle (MBMD, then AES-256-GCM by the session's
key). The source encrypts by its own MIG_ENC_KEY, which the migration TDs carry to the destination as MIG_DEC_KEY.

::

    source       RUNNABLE -state_immutable-> LIVE_EXPORT -pause-> PAUSED_EXPORT -track-> POST_EXPORT
    destination  UNINITIALIZED -state_immutable-> MEMORY_IMPORT -state_td-> STATE_IMPORT -track-> POST_IMPORT
                 -commit-> LIVE_IMPORT -end-> RUNNABLE;  a fault or abort -> FAILED_IMPORT
"""

from __future__ import annotations

import dataclasses
import struct
from enum import IntEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tdxstack.errors import WireError
from tdxstack.platform.software.module import check_parameters
from tdxstack.platform.software.status import ModuleError, Operand, Status
from tdxstack.platform.software.td import Lifecycle, OpState, TrustDomain
from tdxstack.platform.software.td_state import TdState
from tdxstack.wire.tdreport import TdAttributes

#: MBMD: size u16, migration version u16, stream index u16, type u8, reserved u8, counter u32, epoch u32, IV u64.
_MBMD = struct.Struct("<HHHBBIIQ")
_MAX_BUNDLE = 1 << 20
_TAG_SIZE = 16


class BundleType(IntEnum):
    """MBMD.MB_TYPE."""

    IMMUTABLE = 0
    TD = 1
    VP = 2
    MEMORY = 16
    EPOCH_TOKEN = 32
    ABORT_TOKEN = 33


_START_TOKEN = b"start token"
_ABORT_TOKEN = b"abort token"


def export_state_immutable(td: TrustDomain) -> bytes:
    """TDH.EXPORT.STATE.IMMUTABLE: begin the export; the TD goes on running.

    Raises:
        ModuleError: wrong state, TD_NOT_MIGRATABLE, or no keys yet (MIGRATION_DECRYPTION_KEY_NOT_SET).
    """
    function = "TDH.EXPORT.STATE.IMMUTABLE"
    td.require(function, Lifecycle.KEYS_CONFIGURED, OpState.RUNNABLE)
    state = TdState.of(td)
    if not state.parameters.attributes & TdAttributes.MIGRATABLE:
        raise ModuleError(function, Status.TD_NOT_MIGRATABLE, Operand.RCX)
    _decryption_key(function, td)
    td.migration.counter = td.migration.expected = 0
    td.op_state = OpState.LIVE_EXPORT
    blank = dataclasses.replace(state, rtmrs=(bytes(48),) * 4, service_tds={})
    return _bundle(td, BundleType.IMMUTABLE, blank.to_bytes())


def export_pause(td: TrustDomain) -> None:
    """TDH.EXPORT.PAUSE: the TD stops."""
    td.require("TDH.EXPORT.PAUSE", Lifecycle.KEYS_CONFIGURED, OpState.LIVE_EXPORT)
    td.op_state = OpState.PAUSED_EXPORT


def export_state_td(td: TrustDomain) -> bytes:
    """TDH.EXPORT.STATE.TD: the state that changes while a TD runs, RTMRs among it."""
    td.require("TDH.EXPORT.STATE.TD", Lifecycle.KEYS_CONFIGURED, OpState.PAUSED_EXPORT)
    return _bundle(td, BundleType.TD, TdState.of(td).to_bytes())


def export_track_done(td: TrustDomain) -> bytes:
    """TDH.EXPORT.TRACK (done): the start token, that lets the destination run; the source cannot any more."""
    td.require("TDH.EXPORT.TRACK", Lifecycle.KEYS_CONFIGURED, OpState.PAUSED_EXPORT)
    td.op_state = OpState.POST_EXPORT
    return _bundle(td, BundleType.EPOCH_TOKEN, _START_TOKEN)


def export_abort(td: TrustDomain, token: bytes | None = None) -> None:
    """TDH.EXPORT.ABORT: run on the source again.

    Args:
        token: the destination's abort token; needed once the start token has been given.

    Raises:
        ModuleError: wrong state, or no valid token where one is needed.
    """
    function = "TDH.EXPORT.ABORT"
    states = (OpState.LIVE_EXPORT, OpState.PAUSED_EXPORT, OpState.POST_EXPORT)
    td.require(function, Lifecycle.KEYS_CONFIGURED, *states)
    if td.op_state is OpState.POST_EXPORT:
        if token is None:
            raise ModuleError(function, Status.INVALID_MBMD, Operand.R8, "an abort token is needed")
        if _open(function, td, BundleType.ABORT_TOKEN, token) != _ABORT_TOKEN:
            raise ModuleError(function, Status.INVALID_MBMD, Operand.R8)
    td.op_state = OpState.RUNNABLE


def import_state_immutable(td: TrustDomain, bundle: bytes) -> None:
    """TDH.IMPORT.STATE.IMMUTABLE: begin the import into a created and keyed TD.

    Raises:
        ModuleError: wrong state, a bundle that is none (INVALID_MBMD), of another session (INCORRECT_MBMD_MAC), or a
            TD that this platform cannot run (IMPORT_MISMATCH).
    """
    function = "TDH.IMPORT.STATE.IMMUTABLE"
    td.require(function, Lifecycle.KEYS_CONFIGURED, OpState.UNINITIALIZED)
    state = _state(function, td, BundleType.IMMUTABLE, bundle)
    try:
        check_parameters(function, state.parameters)
    except ModuleError as error:
        raise _failed(td, function, Status.IMPORT_MISMATCH, str(error)) from None
    bound = td.service_tds
    state.put_into(td)
    td.service_tds = bound
    td.op_state = OpState.MEMORY_IMPORT


def import_state_td(td: TrustDomain, bundle: bytes) -> None:
    """TDH.IMPORT.STATE.TD: the RTMRs; all else must be what came first.

    Raises:
        ModuleError: as for the immutable state; any fault ends the import.
    """
    function = "TDH.IMPORT.STATE.TD"
    td.require(function, Lifecycle.KEYS_CONFIGURED, OpState.MEMORY_IMPORT)
    state = _state(function, td, BundleType.TD, bundle)
    same = (state.parameters, state.mrtd, state.uuid) == (td.parameters, td.mrtd, td.uuid)
    if not same:
        raise _failed(td, function, Status.IMPORT_MISMATCH, "not the TD whose immutable state came first")
    td.rtmrs = list(state.rtmrs)
    td.op_state = OpState.STATE_IMPORT


def import_track(td: TrustDomain, token: bytes) -> None:
    """TDH.IMPORT.TRACK: the start token has come.

    Raises:
        ModuleError: wrong state or token.
    """
    function = "TDH.IMPORT.TRACK"
    td.require(function, Lifecycle.KEYS_CONFIGURED, OpState.STATE_IMPORT)
    if _open(function, td, BundleType.EPOCH_TOKEN, token) != _START_TOKEN:
        raise _failed(td, function, Status.INVALID_MBMD, "not a start token")
    td.op_state = OpState.POST_IMPORT


def import_commit(td: TrustDomain) -> None:
    """TDH.IMPORT.COMMIT: the TD may run here; no way back."""
    td.require("TDH.IMPORT.COMMIT", Lifecycle.KEYS_CONFIGURED, OpState.POST_IMPORT)
    td.op_state = OpState.LIVE_IMPORT


def import_end(td: TrustDomain) -> None:
    """TDH.IMPORT.END: an ordinary TD again."""
    td.require("TDH.IMPORT.END", Lifecycle.KEYS_CONFIGURED, OpState.LIVE_IMPORT)
    td.op_state = OpState.RUNNABLE


def import_abort(td: TrustDomain) -> bytes:
    """TDH.IMPORT.ABORT: give the TD up here; the abort token lets the source run it again.

    Raises:
        ModuleError: after the commit.
    """
    function = "TDH.IMPORT.ABORT"
    states = (OpState.MEMORY_IMPORT, OpState.STATE_IMPORT, OpState.POST_IMPORT, OpState.FAILED_IMPORT)
    td.require(function, Lifecycle.KEYS_CONFIGURED, *states)
    td.op_state = OpState.FAILED_IMPORT
    return _bundle(td, BundleType.ABORT_TOKEN, _ABORT_TOKEN)


def _decryption_key(function: str, td: TrustDomain) -> bytes:
    key = td.migration.decryption_key
    if key is None:
        raise ModuleError(function, Status.MIGRATION_DECRYPTION_KEY_NOT_SET, Operand.RCX)
    return key


def _bundle(td: TrustDomain, kind: BundleType, payload: bytes) -> bytes:
    """MBMD in clear and authenticated, then the payload encrypted. Counters never repeat under one key."""
    counter = td.migration.counter
    td.migration.counter += 1
    head = _MBMD.pack(_MBMD.size + _TAG_SIZE, td.migration.version, 0, kind, 0, counter, 0, td.migration.next_iv())
    nonce = head[-8:].rjust(12, b"\0")
    return head + AESGCM(td.migration.encryption_key).encrypt(nonce, payload, head)


def _open(function: str, td: TrustDomain, kind: BundleType, bundle: bytes) -> bytes:
    """The payload of a bundle of this kind from the session's peer; a fault ends an import."""
    key = _decryption_key(function, td)
    if not _MBMD.size + _TAG_SIZE <= len(bundle) <= _MAX_BUNDLE:
        raise _failed(td, function, Status.INVALID_MBMD, f"{len(bundle)} bytes")
    head = bundle[: _MBMD.size]
    size, version, _, found, _, counter, _, _ = _MBMD.unpack(head)
    if (size, version, found) != (_MBMD.size + _TAG_SIZE, td.migration.version, kind):
        raise _failed(td, function, Status.INVALID_MBMD, f"type {found}, version {version}")
    if counter != td.migration.expected:
        raise _failed(td, function, Status.INVALID_MBMD, f"bundle {counter}, {td.migration.expected} is next")
    try:
        payload = AESGCM(key).decrypt(head[-8:].rjust(12, b"\0"), bundle[_MBMD.size :], head)
    except InvalidTag:
        raise _failed(td, function, Status.INCORRECT_MBMD_MAC, "of another session, or changed") from None
    td.migration.expected += 1
    return payload


def _state(function: str, td: TrustDomain, kind: BundleType, bundle: bytes) -> TdState:
    try:
        return TdState.from_bytes(_open(function, td, kind, bundle))
    except WireError as error:
        raise _failed(td, function, Status.INVALID_MBMD, str(error)) from None


def _failed(td: TrustDomain, function: str, status: Status, detail: str) -> ModuleError:
    """An import that has begun does not survive a fault; an export does."""
    if td.op_state in (OpState.MEMORY_IMPORT, OpState.STATE_IMPORT):
        td.op_state = OpState.FAILED_IMPORT
    return ModuleError(function, status, Operand.R8, detail)
