"""What a bound service TD may read and write of its target: the keys and version of a migration session.

Source: Intel TDX Module v1.5 TD Migration specification; field ids of the ABI specification (TDCS, "Migration").
"""

from __future__ import annotations

from enum import IntEnum

from tdxstack.platform.software.status import ModuleError, Operand, Status
from tdxstack.platform.software.td import RUNNING, Lifecycle, TrustDomain

_KEY_WORDS = 4


class Field(IntEnum):
    """First field id of each element; keys have four 64-bit words."""

    MIG_DEC_KEY = 0x9810000300000010
    MIG_ENC_KEY = 0x9810000300000018
    MIG_VERSION = 0x9810000100000020


#: Migration versions that the model exports and imports.
MIN_VERSION = MAX_VERSION = 0


def servtd_rd(service: TrustDomain, target: TrustDomain, field: int) -> int:
    """TDG.SERVTD.RD: one 64-bit word of the target's migration encryption key.

    Raises:
        ModuleError: not bound, not the bound TD any more, or not a field that a service TD may read.
    """
    function = "TDG.SERVTD.RD"
    _check_bound(function, service, target)
    word = field - Field.MIG_ENC_KEY
    if not 0 <= word < _KEY_WORDS:
        raise ModuleError(function, Status.OPERAND_INVALID, Operand.RDX, f"field 0x{field:x}")
    return int.from_bytes(target.migration.encryption_key[8 * word : 8 * word + 8], "little")


def servtd_wr(service: TrustDomain, target: TrustDomain, field: int, value: int) -> None:
    """TDG.SERVTD.WR: one 64-bit word of the target's migration decryption key, or its migration version.

    Raises:
        ModuleError: not bound, not a field that a service TD may write, or a version that is not supported.
    """
    function = "TDG.SERVTD.WR"
    _check_bound(function, service, target)
    word = field - Field.MIG_DEC_KEY
    if 0 <= word < _KEY_WORDS:
        target.migration.decryption_words[word] = value
    elif field == Field.MIG_VERSION:
        if not MIN_VERSION <= value <= MAX_VERSION:
            raise ModuleError(function, Status.OPERAND_INVALID, Operand.R8, f"migration version {value}")
        target.migration.version = value
    else:
        raise ModuleError(function, Status.OPERAND_INVALID, Operand.RDX, f"field 0x{field:x}")


def _check_bound(function: str, service: TrustDomain, target: TrustDomain) -> None:
    """The service TD is the one that is bound: by its UUID, and by its measurements as they are now."""
    service.require(function, Lifecycle.KEYS_CONFIGURED, *RUNNING)
    bound = next((item for item in target.service_tds.values() if item.uuid is not None), None)
    if bound is None:
        raise ModuleError(function, Status.SERVTD_NOT_BOUND, Operand.RCX)
    if bound.uuid != service.uuid:
        raise ModuleError(function, Status.SERVTD_UUID_MISMATCH, Operand.RCX)
    if bound.info_hash != service.servtd_info_hash():
        raise ModuleError(function, Status.SERVTD_INFO_HASH_MISMATCH, Operand.RCX)
