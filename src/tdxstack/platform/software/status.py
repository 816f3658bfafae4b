"""Completion status of TDX module functions, as far as the model uses them.

Source: Intel TDX Module v1.5 ABI specification, "Function Completion Status Codes": class and name in bits 63:32,
the id of the operand at fault in bits 31:0.
"""

from __future__ import annotations

from enum import IntEnum

from tdxstack.errors import TdxStackError


class Status(IntEnum):
    """Completion status, bits 63:32 in place."""

    SUCCESS = 0
    OPERAND_INVALID = 0xC000010000000000
    OPERAND_ADDR_RANGE_ERROR = 0xC000010100000000
    PAGE_METADATA_INCORRECT = 0xC000030000000000
    TDCS_NOT_ALLOCATED = 0xC000060600000000
    LIFECYCLE_STATE_INCORRECT = 0xC000060700000000
    OP_STATE_INCORRECT = 0xC000060800000000
    TD_KEYS_NOT_CONFIGURED = 0x8000081000000000
    HKID_NOT_FREE = 0xC000082000000000
    EPT_ENTRY_NOT_FREE = 0xC0000B0200000000
    EPT_ENTRY_NOT_PRESENT = 0xC0000B0300000000
    SERVTD_ALREADY_BOUND_FOR_TYPE = 0xC0000D0000000000
    SERVTD_TYPE_MISMATCH = 0xC0000D0100000000
    SERVTD_ATTR_MISMATCH = 0xC0000D0200000000
    SERVTD_INFO_HASH_MISMATCH = 0xC0000D0300000000
    SERVTD_UUID_MISMATCH = 0xC0000D0400000000
    SERVTD_NOT_BOUND = 0xC0000D0500000000
    INVALID_MBMD = 0xC0000E0000000000
    INCORRECT_MBMD_MAC = 0xC0000E0100000000
    MIGRATION_DECRYPTION_KEY_NOT_SET = 0xC0000E0800000000
    TD_NOT_MIGRATABLE = 0xC0000E0900000000
    IMPORT_MISMATCH = 0xC0000E0C00000000
    INVALID_CPUSVN = 0xC000100000000000
    INVALID_REPORTMACSTRUCT = 0xC000100100000000


class Operand(IntEnum):
    """Operand ids: which register or field the status is about."""

    RAX = 0
    RCX = 1
    RDX = 2
    R8 = 8
    R9 = 9
    R10 = 10
    R11 = 11
    R13 = 13
    ATTRIBUTES = 64
    XFAM = 65
    RTMR = 128


class ModuleError(TdxStackError):
    """A TDX module function that did not succeed. ``status`` is the whole 64-bit completion status."""

    def __init__(self, function: str, status: Status, operand: Operand = Operand.RAX, detail: str = "") -> None:
        self.function = function
        self.status = status | operand
        self.code = status
        self.operand = operand
        text = f"{function}: TDX_{status.name} (0x{self.status:016x})"
        super().__init__(text + (f": {detail}" if detail else ""))
