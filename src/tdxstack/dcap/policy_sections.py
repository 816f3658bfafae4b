"""The settings of an appraisal policy, by section: each with type, default, help and, where Intel's own verifier is
silent, the reason for its default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tdxstack.dcap.status import TcbStatus

DAY = 24 * 3600

#: XFAM bits that every TD has (x87, SSE), and all that a TDX module lets a TD have.
XFAM_FIXED1 = 0x3
XFAM_FIXED0 = 0x6DBE7

#: Sizes in bytes.
_FMSPC, _IDENTITY, _SHA256, _SHA384 = range(6, 7), range(16, 17), range(32, 33), range(48, 49)
_REPORT_DATA = range(65)

STATUSES = [status.value for status in TcbStatus if status is not TcbStatus.REVOKED]


def setting(
    default: Any,
    kind: str,
    text: str,
    reason: str = "",
    *,
    sizes: range | None = None,
    choices: Sequence[Any] | None = None,
) -> Any:
    """A setting.

    Args:
        kind: bool, count, counts, bits, hex (one or several values) or words.
        sizes: of hex, how many bytes a value may have.
        choices: of counts and words, the values that there are.
    """
    members = {"kind": kind, "help": text, "reason": reason, "sizes": sizes, "choices": choices}
    return field(default=default, metadata=members)


@dataclass(frozen=True, slots=True)
class TcbPolicy:
    """``[tcb]``: the platform's TCB."""

    accepted_statuses: tuple[str, ...] = setting(
        (TcbStatus.UP_TO_DATE.value,), "words", "launch statuses that are accepted", choices=STATUSES
    )
    accepted_current_statuses: tuple[str, ...] = setting(
        (), "words", "statuses by the module that runs now that are accepted; empty: any", choices=STATUSES
    )
    grace_days: int = setting(0, "count", "days after its date for which an out-of-date TCB is accepted all the same")
    rejected_advisories: tuple[str, ...] = setting((), "words", "advisories that must not apply, or '*' for any")
    accepted_advisories: tuple[str, ...] = setting((), "words", "the only advisories that may apply; empty: any")
    min_evaluation_number: int = setting(0, "count", "smallest tcbEvaluationDataNumber of TCB info and QE identity")
    require_equal_evaluation_numbers: bool = setting(
        True,
        "bool",
        "TCB info and QE identity have to be of one evaluation",
        "old QE identity beside new TCB info hides a quoting enclave that is out of date",
    )


@dataclass(frozen=True, slots=True)
class CollateralPolicy:
    """``[collateral]``: the collateral and the certificates."""

    grace_days: int = setting(0, "count", "days for which expired collateral is accepted all the same")
    require_not_before: bool = setting(
        True, "bool", "certificates have to be valid already", "a certificate from the future means a wrong clock"
    )
    require_issued: bool = setting(
        True, "bool", "documents have to be issued already", "a document from the future means a wrong clock"
    )
    require_low_s: bool = setting(
        False,
        "bool",
        "the quote's signature must not be the malleable twin (s <= n/2)",
        "genuine quoting enclaves sign with either; set it where the bytes of a quote serve as a name",
    )
    require_qe_report_data_tail: bool = setting(
        True,
        "bool",
        "bytes 32 to 63 of the QE's report data have to be zero",
        "Intel's quoting enclaves set zeros; other bytes come from another enclave",
    )
    require_named_pck: bool = setting(
        True,
        "bool",
        "a quote that only names its PCK certificate (certification data 1 to 3) has to name the one brought along",
        "else the platform that the quote names is not the one that was judged",
    )
    require_reserved_header: bool = setting(
        True,
        "bool",
        "reserved bytes of a version 4 and 5 header have to be zero",
        "bytes that mean nothing today may mean something tomorrow",
    )


@dataclass(frozen=True, slots=True)
class PlatformPolicy:
    """``[platform]``: which machines."""

    tees: tuple[str, ...] = setting(("tdx", "sgx"), "words", "kinds of evidence: tdx, sgx", choices=("tdx", "sgx"))
    allow_software: bool = setting(
        True,
        "bool",
        "software platforms are accepted",
        "only a root that the caller names can make a software platform's evidence verify",
    )
    fmspcs: tuple[bytes, ...] = setting((), "hex", "FMSPCs (6 bytes); empty: any", sizes=_FMSPC)
    instance_ids: tuple[bytes, ...] = setting(
        (), "hex", "platform instance ids (16 bytes); empty: any", sizes=_IDENTITY
    )
    ppids: tuple[bytes, ...] = setting((), "hex", "PPIDs (16 bytes); empty: any", sizes=_IDENTITY)
    allow_dynamic_platform: bool = setting(True, "bool", "platforms that can be extended by packages")
    allow_cached_keys: bool = setting(True, "bool", "platforms whose keys the registration service keeps")
    allow_smt: bool = setting(True, "bool", "platforms with simultaneous multithreading")
    sgx_types: tuple[int, ...] = setting(
        (), "counts", "memory protection: 0 standard, 1 scalable, 2 with integrity", choices=(0, 1, 2)
    )


@dataclass(frozen=True, slots=True)
class TdPolicy:
    """``[td]``: the trust domain."""

    allow_debug: bool = setting(
        False, "bool", "TDs in debug mode", "the host reads and writes a debug TD's memory; nothing in it is secret"
    )
    allow_reserved_attributes: bool = setting(
        False, "bool", "attribute bits without a meaning", "a bit unknown today may weaken the TD tomorrow"
    )
    require_sept_ve_disable: bool = setting(
        True,
        "bool",
        "SEPT_VE_DISABLE has to be set",
        "else the host can inject #VE at any memory access by taking the page away",
    )
    allow_migratable: bool = setting(
        False, "bool", "TDs that may be migrated", "it may run under another TCB than the quote's tomorrow"
    )
    allow_pks: bool = setting(True, "bool", "TDs with supervisor protection keys", "protects; takes nothing away")
    allow_key_locker: bool = setting(False, "bool", "TDs with Key Locker", "its keys are not part of the TDX promise")
    allow_perfmon: bool = setting(
        True, "bool", "TDs with performance counters", "bits 32 to 63 do not bear on the TD's security"
    )
    attributes: int | None = setting(None, "bits", "TD attributes, exactly, under the mask")
    attributes_mask: int = setting(2**64 - 1, "bits", "bits of attributes that are compared")
    xfam: int | None = setting(None, "bits", "XFAM, exactly, under the mask")
    xfam_mask: int = setting(2**64 - 1, "bits", "bits of xfam that are compared")
    check_xfam_fixed_bits: bool = setting(
        True, "bool", "XFAM has to be one that a TDX module allows", "another one does not come from a TDX module"
    )
    allow_service_td: bool = setting(
        False,
        "bool",
        "TDs bound to a service TD (MR_SERVICETD not zero)",
        "a service TD, such as a migration TD, can take part in the TD's state",
    )
    mr_service_tds: tuple[bytes, ...] = setting((), "hex", "MR_SERVICETD that are accepted (48 bytes)", sizes=_SHA384)
    mr_seams: tuple[bytes, ...] = setting(
        (),
        "hex",
        "MRSEAM that are accepted (48 bytes); empty: any",
        "Intel signs every TDX module, also one with a known flaw; a list pins releases",
        sizes=_SHA384,
    )
    mr_tds: tuple[bytes, ...] = setting((), "hex", "MRTD that are accepted (48 bytes); empty: any", sizes=_SHA384)
    rtmr0: tuple[bytes, ...] = setting((), "hex", "RTMR0 that are accepted; empty: any", sizes=_SHA384)
    rtmr1: tuple[bytes, ...] = setting((), "hex", "RTMR1 that are accepted; empty: any", sizes=_SHA384)
    rtmr2: tuple[bytes, ...] = setting((), "hex", "RTMR2 that are accepted; empty: any", sizes=_SHA384)
    rtmr3: tuple[bytes, ...] = setting((), "hex", "RTMR3 that are accepted; empty: any", sizes=_SHA384)
    mr_config_ids: tuple[bytes, ...] = setting((), "hex", "MRCONFIGID that are accepted; empty: any", sizes=_SHA384)
    mr_owners: tuple[bytes, ...] = setting((), "hex", "MROWNER that are accepted; empty: any", sizes=_SHA384)
    mr_owner_configs: tuple[bytes, ...] = setting(
        (), "hex", "MROWNERCONFIG that are accepted; empty: any", sizes=_SHA384
    )


@dataclass(frozen=True, slots=True)
class EventsPolicy:
    """``[events]``: the boot that the event log proves. Any setting that is not the default asks for a log."""

    require_log: bool = setting(False, "bool", "an event log that replays to the quote's registers has to be there")
    kernels: tuple[bytes, ...] = setting(
        (),
        "hex",
        "SHA-384 of the images that may be started (EFI kernels, unified kernel images, boot loaders: Authenticode; "
        "kernels by GRUB: of the file); empty: any",
        sizes=_SHA384,
    )
    command_lines: tuple[str, ...] = setting((), "words", "kernel command lines that are accepted; empty: any")
    initrds: tuple[bytes, ...] = setting(
        (), "hex", "SHA-384 of the initrds that are accepted; empty: any", sizes=_SHA384
    )
    require_secure_boot: bool = setting(False, "bool", "secure boot has to be on")
    pk: tuple[bytes, ...] = setting((), "hex", "SHA-256 of the content of variable PK; empty: any", sizes=_SHA256)
    kek: tuple[bytes, ...] = setting((), "hex", "SHA-256 of the content of variable KEK; empty: any", sizes=_SHA256)
    db: tuple[bytes, ...] = setting((), "hex", "SHA-256 of the content of variable db; empty: any", sizes=_SHA256)
    dbx: tuple[bytes, ...] = setting((), "hex", "SHA-256 of the content of variable dbx; empty: any", sizes=_SHA256)
    authorities: tuple[bytes, ...] = setting(
        (), "hex", "SHA-256 of the database entries that images may be let pass by; empty: any", sizes=_SHA256
    )


@dataclass(frozen=True, slots=True)
class EnclavePolicy:
    """``[enclave]``: an SGX enclave."""

    allow_debug: bool = setting(False, "bool", "enclaves in debug mode", "the host reads a debug enclave's memory")
    mr_enclaves: tuple[bytes, ...] = setting(
        (), "hex", "MRENCLAVE that are accepted (32 bytes); empty: any", sizes=_SHA256
    )
    mr_signers: tuple[bytes, ...] = setting(
        (), "hex", "MRSIGNER that are accepted (32 bytes); empty: any", sizes=_SHA256
    )
    isv_prod_ids: tuple[int, ...] = setting((), "counts", "ISVPRODID that are accepted; empty: any")
    min_isv_svn: int = setting(0, "count", "smallest ISVSVN")


@dataclass(frozen=True, slots=True)
class BindingPolicy:
    """``[binding]``: what the evidence has to be about."""

    report_data: tuple[bytes, ...] = setting(
        (), "hex", "REPORTDATA that are accepted (up to 64 bytes, zeros are added); empty: any", sizes=_REPORT_DATA
    )
