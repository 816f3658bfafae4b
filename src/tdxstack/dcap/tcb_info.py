"""TCB info: which security version numbers (SVN) Intel wants of a platform, and the TDX module identities.

Intel SGX/TDX PCS API v4, "Get TCB Info", TcbInfo version 3; version 2 is what API v3 served, for SGX alone. The
order of checks and the kind of each fault are those of QVL 1.27.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from tdxstack.dcap.signed_json import (
    FormatFault,
    InvalidFault,
    Members,
    advisories,
    date,
    load_signed,
    member,
    objects,
    octets,
    text_of,
    unsigned,
)
from tdxstack.dcap.status import TcbStatus

SGX_ID, TDX_ID = "SGX", "TDX"
_MAX_MODULE_SVN = 0xFFFF

_LEVEL_STATUSES = {
    status.value: status
    for status in TcbStatus
    if status not in (TcbStatus.TD_RELAUNCH_ADVISED, TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED)
}
#: The statuses that a TDX module identity or an enclave identity may have.
IDENTITY_STATUSES = {
    status.value: status for status in (TcbStatus.UP_TO_DATE, TcbStatus.OUT_OF_DATE, TcbStatus.REVOKED)
}


class TcbLevel(NamedTuple):
    """A level of the platform: 16 SGX component SVNs, PCE SVN, 16 TDX component SVNs (TDX), and what they amount to.

    ``tcb_date`` is in Unix seconds.
    """

    sgx: bytes
    pce_svn: int
    tdx: bytes | None
    tcb_date: int
    status: TcbStatus
    advisories: tuple[str, ...]

    @property
    def key(self) -> tuple[bytes, int, bytes]:
        """By which levels are ordered; two levels with the same key are duplicates."""
        return self.sgx, self.pce_svn, self.tdx or b""


class IsvLevel(NamedTuple):
    """A level of a TDX module or of the quoting enclave. ``status`` is None if it is none that is allowed there."""

    isv_svn: int
    tcb_date: int
    status: TcbStatus | None
    advisories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TdxModule:
    """Who signs TDX modules and which SEAM attributes they have; ``levels`` is empty for ``tdxModule``."""

    id: str
    mr_signer: bytes
    attributes: bytes
    attributes_mask: bytes
    levels: tuple[IsvLevel, ...] = ()


@dataclass(frozen=True, slots=True)
class TcbInfo:
    """A TCB info document; levels are sorted, best first. Dates are in Unix seconds."""

    id: str
    version: int
    issue_date: int
    next_update: int
    fmspc: bytes
    pce_id: bytes
    evaluation_number: int
    levels: tuple[TcbLevel, ...]
    tdx_module: TdxModule | None = None
    #: None if the document has no ``tdxModuleIdentities``.
    module_identities: tuple[TdxModule, ...] | None = None
    #: The document's ``tcb`` of each level, by the level's key.
    tcbs: Mapping[tuple[bytes, int, bytes], Members] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def from_json(cls, text: str) -> TcbInfo:
        """Read the body (the value of ``tcbInfo``). Raises FormatFault or InvalidFault."""
        info = load_signed(text, "tcb_info", _colons)
        version = unsigned(info, "version")
        if version not in (2, 3):
            raise InvalidFault(f"version: {version} is not 2 or 3")
        kind = _kind(info, version)
        issue_date, next_update = date(info, "issueDate"), date(info, "nextUpdate")
        fmspc, pce_id = octets(info, "fmspc", 6), octets(info, "pceId", 2)
        if "tcbLevels" not in info:
            raise InvalidFault("tcbLevels: absent")
        tcb_type = member(info, "tcbType")
        if type(tcb_type) is not int or tcb_type != 0:
            raise InvalidFault("tcbType: not 0")
        number = unsigned(info, "tcbEvaluationDataNumber")
        module, identities = _modules(info, kind) if version == 3 else (None, None)
        plain = all(text.count(f'"{name}"') == text.count(f'"{name}":"') for name in ("category", "type"))
        levels, tcbs = _levels(info, version, kind, check_names=not plain)
        return cls(
            kind, version, issue_date, next_update, fmspc, pce_id, number, levels, module, identities, tcbs
        )  # fmt: skip

    def component_names(self, level: TcbLevel, array: str) -> tuple[str, ...]:
        """What each component of ``sgxtcbcomponents`` or ``tdxtcbcomponents`` is, where the document says it."""
        components = self.tcbs.get(level.key, {}).get(array, ())
        pairs = [(component.get("category", ""), component.get("type", "")) for component in components]
        names = tuple(": ".join(str(word) for word in pair if word) for pair in pairs)
        return names or ("",) * 16

    def module_identity(self, major: int) -> TdxModule | None:
        """The identity of TDX modules with major version ``major`` (TEE_TCB_SVN[1]), or None."""
        wanted = f"TDX_{major:02X}"
        return next((module for module in self.module_identities or () if module.id.upper() == wanted), None)


def isv_colons(levels: list[Members]) -> int:
    """Colons in levels with an ``isvsvn``: one for each member, two more in each date."""
    return sum(len(level) + len(level["tcb"]) + 2 for level in levels)


def _colons(info: Members) -> int:
    """See :func:`load_signed`."""
    total = len(info) + 4 + len(info.get("tdxModule", ()))
    for identity in info.get("tdxModuleIdentities", ()):
        total += len(identity) + isv_colons(identity["tcbLevels"])
    for level in info["tcbLevels"]:
        tcb = level["tcb"]
        total += len(level) + len(tcb) + 2
        for name in ("sgxtcbcomponents", "tdxtcbcomponents"):
            total += sum(map(len, tcb.get(name, ())))
    return total


def _kind(info: Members, version: int) -> str:
    if version == 2:
        return SGX_ID
    kind = text_of(info, "id")
    if kind not in (SGX_ID, TDX_ID):
        raise InvalidFault(f"id: {kind!r:.40} is not SGX or TDX")
    return kind


def _modules(info: Members, kind: str) -> tuple[TdxModule | None, tuple[TdxModule, ...] | None]:
    if kind == SGX_ID:
        for name in ("tdxModule", "tdxModuleIdentities"):
            if name in info:
                raise InvalidFault(f"{name}: in a document for SGX")
        return None, None
    if "tdxModule" not in info:
        raise InvalidFault("tdxModule: absent")
    module = info["tdxModule"]
    if not isinstance(module, dict):
        raise FormatFault("tdxModule: not an object")
    try:
        plain = _module(module, "tdxModule")
        if "tdxModuleIdentities" not in info:
            return plain, None
        identities = objects(info, "tdxModuleIdentities")
    except InvalidFault as fault:
        if "tdxModuleIdentities" in str(fault):
            raise
        raise FormatFault(str(fault)) from None
    return plain, tuple(_identity(identity) for identity in identities)


def _module(module: Members, name: str) -> TdxModule:
    return TdxModule(
        name, octets(module, "mrsigner", 48), octets(module, "attributes", 8), octets(module, "attributesMask", 8)
    )


def _identity(identity: Members) -> TdxModule:
    """One member of ``tdxModuleIdentities``; whatever is wrong in it is a fault of format."""
    try:
        plain = _module(identity, text_of(identity, "id"))
        levels = [
            isv_level(level, IDENTITY_STATUSES, strict=False) for level in objects(identity, "tcbLevels", FormatFault)
        ]
    except InvalidFault as fault:
        raise FormatFault(str(fault)) from None
    if len({level.isv_svn for level in levels}) != len(levels):
        raise FormatFault(f"{plain.id}: two levels with one isvsvn")
    if max(level.isv_svn for level in levels) > _MAX_MODULE_SVN:
        raise FormatFault(f"{plain.id}: an isvsvn of more than 16 bits")
    ordered = tuple(sorted(levels, key=lambda level: level.isv_svn, reverse=True))
    return TdxModule(plain.id, plain.mr_signer, plain.attributes, plain.attributes_mask, ordered)


def isv_level(level: Members, statuses: dict[str, TcbStatus], *, strict: bool) -> IsvLevel:
    """A level with an ``isvsvn``. A status not in ``statuses`` raises InvalidFault if ``strict``, else is None."""
    tcb = member(level, "tcb")
    if not isinstance(tcb, dict):
        raise FormatFault("tcb: not an object")
    svn = unsigned(tcb, "isvsvn")
    tcb_date = date(level, "tcbDate")
    word = text_of(level, "tcbStatus")
    if strict and word not in statuses:
        raise InvalidFault(f"tcbStatus: {word!r:.60}")
    return IsvLevel(svn, tcb_date, statuses.get(word), advisories(level))


_Tcbs = dict[tuple[bytes, int, bytes], Members]


def _levels(info: Members, version: int, kind: str, *, check_names: bool) -> tuple[tuple[TcbLevel, ...], _Tcbs]:
    """The levels, best first, and the ``tcb`` of each."""
    raw = objects(info, "tcbLevels")
    levels = [_level(level, version, kind) for level in raw]
    tcbs = {level.key: members["tcb"] for level, members in zip(levels, raw, strict=True)}
    if len(tcbs) != len(levels):
        raise InvalidFault("tcbLevels: two levels are the same")
    if check_names and version == 3:
        for tcb in tcbs.values():
            _check_names(tcb["sgxtcbcomponents"])
            _check_names(tcb["tdxtcbcomponents"] if kind == TDX_ID else [])
    return tuple(sorted(levels, key=lambda level: level.key, reverse=True)), tcbs


def _level(level: Members, version: int, kind: str) -> TcbLevel:
    tcb_date = date(level, "tcbDate")
    advisory_ids = advisories(level)
    word = member(level, "tcbStatus")
    if not isinstance(word, str):
        raise FormatFault("tcbStatus: not a string")
    if (status := _LEVEL_STATUSES.get(word)) is None:
        raise InvalidFault(f"tcbStatus: {word!r:.60}")
    tcb = member(level, "tcb")
    if not isinstance(tcb, dict):
        raise FormatFault("tcb: not an object")
    pce_svn = tcb.get("pcesvn")
    if type(pce_svn) is not int or not 0 <= pce_svn < 1 << 32:
        raise FormatFault("pcesvn: not a number of 32 bits")
    if version == 2:
        sgx = bytes(unsigned(tcb, f"sgxtcbcomp{index:02d}svn") & 0xFF for index in range(1, 17))
        return TcbLevel(sgx, pce_svn, None, tcb_date, status, advisory_ids)
    tdx = _components(tcb, "tdxtcbcomponents") if kind == TDX_ID else None
    return TcbLevel(_components(tcb, "sgxtcbcomponents"), pce_svn, tdx, tcb_date, status, advisory_ids)


def _components(tcb: Members, name: str) -> bytes:
    """16 SVNs, each cut to one byte as QVL does."""
    components = tcb.get(name)
    if not isinstance(components, list) or len(components) != 16:
        raise FormatFault(f"{name}: not an array of 16")
    try:
        svns = [component["svn"] for component in components]
        if bool not in map(type, svns):
            return bytes(svns)
    except (ValueError, TypeError, KeyError):  # one is larger than a byte, or none at all
        pass
    try:
        return bytes(unsigned(component, "svn") & 0xFF for component in components)
    except (FormatFault, InvalidFault, TypeError):
        raise FormatFault(f"{name}: a component without a number svn") from None


def _check_names(components: list[Members]) -> None:
    for component in components:
        for name in ("category", "type"):
            if not isinstance(component.get(name, ""), str):
                raise FormatFault(f"component: {name} is not a string")
