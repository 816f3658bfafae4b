"""The TDX module and its loader: there, initialised, of a version that works."""

from __future__ import annotations

from dataclasses import dataclass

from tdxstack.platform.linux_host_files import HostReadError
from tdxstack.preflight import facts, seamcall
from tdxstack.preflight.data import table
from tdxstack.preflight.host import LOADER_VERSIONS, STACK_1_5_MODULE, UPSTREAM_MODULE, Host, World
from tdxstack.preflight.model import Check, Finding, failed, judged, passed, skipped, warned

UPDATE = "update the BIOS, or stage a newer module on the ESP: tdxctl module stage DIRECTORY"


@dataclass(frozen=True, slots=True)
class ModuleVersion:
    """A version and where it was found. ``number`` has two parts where only major.minor are told."""

    number: facts.Version
    build: int | None
    debug: bool
    where: str


def version_of(host: Host) -> ModuleVersion | None:
    """The module's version: sysfs of either world, else the kernel log; None where nothing tells."""
    if host.world is World.STACK_1_5:
        return _version_1_5(host) or _version_log(host)
    path = f"{UPSTREAM_MODULE}/version"
    text = host.files.text_or_none(path)
    if text is not None:
        line = host.log.module
        return ModuleVersion(facts.version(text), line.build_number if line else None, _debug(host), path)
    return _version_log(host)


def _version_1_5(host: Host) -> ModuleVersion | None:
    texts = {
        name: host.files.text_or_none(f"{STACK_1_5_MODULE}/{name}") for name in ("major_version", "minor_version")
    }
    if None in texts.values():
        return None
    build = host.files.text_or_none(f"{STACK_1_5_MODULE}/build_num")
    attributes = host.files.text_or_none(f"{STACK_1_5_MODULE}/attributes")
    number = _hex(texts["major_version"]), _hex(texts["minor_version"])
    debug = bool(_hex(attributes) & 1 << 31) if attributes else False
    return ModuleVersion(number, _hex(build) if build else None, debug, STACK_1_5_MODULE)


def _hex(text: str | None) -> int:
    try:
        return int(text or "", 0) if (text or "").startswith("0x") else int(text or "")
    except ValueError:
        raise facts.FactMalformed(f"{STACK_1_5_MODULE}: {(text or '')[:40]!r} is no number") from None


def _version_log(host: Host) -> ModuleVersion | None:
    line = host.log.module
    if line is None:
        return None
    number = (line.major, line.minor) if line.update is None else (line.major, line.minor, line.update)
    return ModuleVersion(number, line.build_number, _debug(host), "kernel log")


def _debug(host: Host) -> bool:
    return bool(host.log.module and host.log.module.attributes & 1 << 31)


def _loaded(host: Host) -> Finding:
    log = host.log
    if any("module not loaded" in line for line in log.failures):
        return failed("kernel log: module not loaded")
    status = host.files.text_or_none(f"{STACK_1_5_MODULE}/status")
    if status in ("unknown", "none"):
        return failed(f"{STACK_1_5_MODULE}/status: {status}")
    found = version_of(host)
    if status in ("loaded", "initialized", "shutdown") or found or log.initialized:
        return passed(
            f"{found.where}: module {facts.dotted(found.number)}" if found else f"status: {status or 'initialized'}"
        )
    if log.seamcalls:
        return passed("kernel log: SEAMCALLs were answered, so a module is loaded")
    if any("reserved areas exhausted" in line for line in log.failures):
        return passed("kernel log: the module told its limits, so it is loaded")
    if log.key_ids:
        return failed(
            "kernel log ends after 'BIOS enabled': no line of the module follows",
            "load KVM with TDX (kernel parameters kvm_intel.tdx=1 nohibernate), then see what the log says next",
        )
    return failed("neither sysfs nor the kernel log tells of a TDX module")


def _initialized(host: Host) -> Finding:
    log = host.log
    status = host.files.text_or_none(f"{STACK_1_5_MODULE}/status")
    if log.initialized or status == "initialized":
        return passed(
            "kernel log: module initialized" if log.initialized else f"{STACK_1_5_MODULE}/status: initialized"
        )
    if log.seamcalls:
        leaf, code = log.seamcalls[-1]
        decoded = seamcall.decode(code, leaf)
        named = "SEAMCALL" if leaf is None else f"SEAMCALL {leaf:#x}"
        return failed(f"kernel log: {named} failed: {code:#018x}: {decoded.text}", decoded.fix)
    if log.failures:
        return failed(f"kernel log: {log.failures[-1]}")
    if host.files.exists(f"{UPSTREAM_MODULE}/version"):
        return passed(f"{UPSTREAM_MODULE}/version is there: the module answers")
    return failed(f"no 'module initialized' in the kernel log; status: {status or 'unknown'}")


def _layout(host: Host) -> Finding:
    log = host.log
    for line in log.failures:
        if "reserved areas exhausted" in line or "TDMRs exhausted" in line:
            return failed(
                f"kernel log: {line} ({log.convertible_ranges} convertible memory ranges)",
                "update the kernel; else reduce holes in the memory map: disable VMD, CXL, large MMIO windows "
                "in the BIOS, and remove memmap= and crashkernel= ranges that cut memory",
            )
    return passed(
        f"kernel log: memory fits the module's regions ({log.convertible_ranges} convertible memory ranges)"
    )


def _version(host: Host) -> Finding:
    found = version_of(host)
    if found is None:
        return failed("the module's version is not told")
    text = facts.dotted(found.number)
    evidence = f"{found.where}: {text}" + (f", build {found.build}" if found.build else "")
    if found.debug:
        return failed(
            f"{evidence}: a debug module: its TDs are not protected", "stage a production module: tdxctl module stage"
        )
    for entry in table("known_bad")["module"]:
        if _in_line(found.number, entry["line"]) and _older(found.number, facts.version(entry["below"])):
            bad = f"{evidence}: {entry['why']}"
            return failed(bad) if entry["outcome"] == "fail" else warned(bad)
    for entry in table("known_bad")["build"]:
        if _in_line(found.number, entry["line"]) and found.build is not None and found.build < entry["below"]:
            return failed(f"{evidence}: {entry['why']}")
    return passed(evidence)


def _in_line(number: facts.Version, line: str) -> bool:
    return number[:2] == facts.version(line)


def _older(number: facts.Version, bound: facts.Version) -> bool:
    # 1.5 alone says nothing of the update: it is not held to be older than 1.5.1.
    return number[: len(bound)] < bound if len(number) >= len(bound) else number < bound[: len(number)]


def _loader(host: Host) -> Finding:
    if host.world is World.STACK_1_5:
        return passed("the 1.5 stack does not tell P-SEAMLDR's version; the module is loaded, so it is there")
    path = next((one for one in LOADER_VERSIONS if host.files.exists(one)), LOADER_VERSIONS[0])
    try:
        text = host.files.text(path)
    except HostReadError as error:
        if error.missing:
            return warned(f"{path} is absent: this kernel or CPU does not update modules at run time")
        raise
    return passed(f"{path}: {facts.dotted(facts.version(text))}")


def _updates_left(host: Host) -> Finding:
    if host.world is World.STACK_1_5:
        return skipped("the 1.5 stack does not count updates")
    path = f"{UPSTREAM_MODULE}/num_remaining_updates"
    try:
        text = host.files.text(path).strip()
    except HostReadError as error:
        if error.missing:
            return skipped(f"{path} is absent")
        raise
    if not text.isascii() or not text.isdigit():
        raise facts.FactMalformed(f"{path}: {text[:40]!r}")
    return judged(int(text[:9]) > 0, f"{path}: {text}", "reboot: the count starts anew")


LOADER = Check(
    "module.loader",
    "P-SEAMLDR",
    _loader,
    "P-SEAMLDR answers with its version",
    "it loads the module, and new ones at run time",
    UPDATE,
    required=False,
    children=(
        Check(
            "module.updates_left",
            "Module updates left before a reboot",
            _updates_left,
            "num_remaining_updates > 0",
            "P-SEAMLDR records each update in a table of limited size",
            "reboot: the count starts anew",
            required=False,
        ),
    ),
)

MODULE = Check(
    "module.loaded",
    "TDX module is loaded",
    _loaded,
    "the kernel found a TDX module in the SEAM range",
    "it is the module that creates and runs TDs",
    f"enable the SEAM loader in the BIOS; {UPDATE}",
    children=(
        Check(
            "module.memory_layout",
            "Memory fits the module's regions",
            _layout,
            "no 'reserved areas exhausted' in the kernel log",
            "a region of memory (TDMR) holds at most 16 holes",
            "update the kernel",
        ),
        Check(
            "module.initialized",
            "TDX module is initialised",
            _initialized,
            "kernel log: module initialized",
            "an uninitialised module runs no TD",
            UPDATE,
            children=(
                Check(
                    "module.version",
                    "TDX module version",
                    _version,
                    "a production module of line 1.5 or later, on no list of bad ones",
                    "old modules lack what kernels need, and their SVN makes quotes OutOfDate",
                    UPDATE,
                ),
                LOADER,
            ),
        ),
    ),
)
