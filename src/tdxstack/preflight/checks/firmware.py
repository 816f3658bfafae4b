"""What the BIOS must have set (Intel white paper "Linux Stacks for Intel TDX 1.5", Table 1 and section 3.3.3)."""

from __future__ import annotations

from collections.abc import Callable

from tdxstack.errors import WireError
from tdxstack.platform.linux_host_files import HostReadError
from tdxstack.platform.linux_host_source import Answer
from tdxstack.preflight import msr
from tdxstack.preflight.bios import advice
from tdxstack.preflight.host import Host, running
from tdxstack.preflight.model import Check, Finding, failed, judged, passed, warned
from tdxstack.preflight.msr import Register


def _advice(host: Host, key: str) -> str:
    try:
        system = host.smbios.system
    except (HostReadError, WireError):
        system = None
    return advice(key, system.manufacturer if system else "")


def _witnessed(look: Callable[[Host], Finding]) -> Callable[[Host], Finding]:
    """In a tree that nobody read registers into, a TDX module that runs is the witness of what it needs."""

    def seen(host: Host) -> Finding:
        try:
            return look(host)
        except HostReadError:
            if host.source.tells(Answer.REGISTERS) or not running(host):
                raise
            return warned("the tree keeps no registers; the TDX module is initialised, which needs this")

    return seen


def _bit(register: Register, bit: int, key: str) -> Callable[[Host], Finding]:
    def look(host: Host) -> Finding:
        good, evidence, _ = msr.field(host, register, bit, bit, bool)
        return judged(good, evidence, _advice(host, key))

    return _witnessed(look)


@_witnessed
def _max_keys(host: Host) -> Finding:
    good, evidence, _ = msr.field(host, Register.IA32_TME_CAPABILITY, 50, 36, bool)
    return judged(good, f"{evidence} (MK_TME_MAX_KEYS)", _advice(host, "tme_mt"))


@_witnessed
def _key_split(host: Host) -> Finding:
    good, private, _ = msr.field(host, Register.IA32_MKTME_KEYID_PARTITIONING, 63, 32, lambda value: value > 1)
    _, shared, _ = msr.field(host, Register.IA32_MKTME_KEYID_PARTITIONING, 31, 0, bool)
    evidence = f"{private} (NUM_TDX_PRIV_KIDS), {shared} (NUM_MKTME_KIDS)"
    return judged(good, evidence, _advice(host, "key_split"))


@_witnessed
def _bypass(host: Host) -> Finding:
    _, evidence, values = msr.field(host, Register.IA32_TME_ACTIVATE, 31, 31, bool)
    state = (
        "bypass on: memory outside TDs is not encrypted"
        if any(values.values())
        else "bypass off: all memory is encrypted"
    )
    return passed(f"{evidence}: {state}")


@_witnessed
def _integrity(host: Host) -> Finding:
    # MK_TME_CRYPTO_ALGS: bit 48 AES-XTS-128, bit 49 AES-XTS-128 with integrity, bit 50 AES-XTS-256.
    good, evidence, _ = msr.field(host, Register.IA32_TME_ACTIVATE, 49, 49, lambda value: value == 0)
    if good:
        return passed(f"{evidence}: logical integrity")
    return warned(f"{evidence}: cryptographic integrity is on", _advice(host, "memory_integrity"))


@_witnessed
def _seamrr_base(host: Host) -> Finding:
    good, evidence, _ = msr.field(host, Register.IA32_SEAMRR_PHYS_BASE, 3, 3, bool)
    return judged(good, f"{evidence} (CONFIGURED)", _advice(host, "tdx"))


@_witnessed
def _seamrr_lock(host: Host) -> Finding:
    good, evidence, _ = msr.field(host, Register.IA32_SEAMRR_PHYS_MASK, 10, 10, bool)
    if good:
        return passed(f"{evidence} (LOCK): the firmware closed the SEAM range after loading P-SEAMLDR")
    return failed(
        f"{evidence} (LOCK): the firmware did not close the SEAM range: it has not loaded P-SEAMLDR",
        f"{_advice(host, 'seam_loader')}. If it stays so this is the firmware's fault, not the system's: "
        "ask the vendor for a BIOS that carries P-SEAMLDR, or put one on the ESP: tdxctl module stage --seamldr FILE",
    )


@_witnessed
def _mcheck(host: Host) -> Finding:
    good, evidence, _ = msr.field(host, Register.SGX_MCHECK_STATUS, 63, 0, lambda value: value == 0)
    return judged(good, evidence)


def _log_agrees(host: Host) -> Finding:
    log = host.log
    if log.enabled_by_bios is False:
        return failed("kernel log: not enabled by BIOS", _advice(host, "tdx"))
    if log.key_ids is None and running(host):
        return passed("no line 'BIOS enabled: private KeyID range' in the kernel log, but the module is initialised")
    if log.key_ids is None:
        return failed(
            "kernel log: no line 'BIOS enabled: private KeyID range'",
            f"boot a kernel with TDX; else {_advice(host, 'tdx')}",
        )
    first, end = log.key_ids
    return judged(
        end - first > 1, f"kernel log: BIOS enabled: private KeyID range [{first}, {end})", _advice(host, "key_split")
    )


TME = Check(
    "firmware.tme",
    "Total Memory Encryption (TME)",
    _bit(Register.IA32_TME_ACTIVATE, 1, "tme"),
    "MSR 0x982[1] = 1",
    "TDX encrypts the memory of TDs with TME's engine",
    advice("tme"),
    children=(
        Check(
            "firmware.tme_mt",
            "TME Multi-Tenant (TME-MT)",
            _max_keys,
            "MSR 0x981[50:36] > 0",
            "each TD has a key of its own",
            advice("tme_mt"),
        ),
        Check(
            "firmware.tme_bypass",
            "TME bypass",
            _bypass,
            "MSR 0x982[31] either way (Auto)",
            "with bypass, memory that needs no secrecy is faster",
            advice("tme_bypass"),
            required=False,
        ),
        Check(
            "firmware.memory_integrity",
            "Memory integrity is logical, not cryptographic",
            _integrity,
            "MSR 0x982[49] = 0",
            "4th generation Xeon E-stepping supports TDX with logical integrity only",
            advice("memory_integrity"),
            required=False,
        ),
    ),
)

SEAMRR = Check(
    "firmware.seamrr",
    "SEAM range is configured",
    _seamrr_base,
    "MSR 0x1400[3] = 1",
    "the TDX module lives in the SEAM range, which the firmware sets aside",
    advice("tdx"),
    children=(
        Check(
            "firmware.seamrr_lock",
            "SEAM range is locked",
            _seamrr_lock,
            "MSR 0x1401[10] = 1",
            "without the lock the CPU lets no module run: 'module not loaded'",
            advice("seam_loader"),
        ),
    ),
)

TDX = Check(
    "firmware.tdx",
    "TDX is enabled",
    _bit(Register.IA32_SEAMRR_PHYS_MASK, 11, "tdx"),
    "MSR 0x1401[11] = 1",
    "the CPU enters SEAM mode only if the firmware enabled it",
    advice("tdx"),
    children=(
        SEAMRR,
        Check(
            "firmware.key_split",
            "TDX key split",
            _key_split,
            "MSR 0x87[63:32] > 1",
            "TDs need private KeyIDs: one for the module, one for each TD",
            advice("key_split"),
        ),
        Check(
            "firmware.log",
            "The kernel found TDX enabled",
            _log_agrees,
            "kernel log: BIOS enabled: private KeyID range",
            "the kernel reads the KeyID partition itself and refuses without one",
            advice("tdx"),
        ),
    ),
)

SGX = Check(
    "firmware.sgx",
    "SGX is enabled",
    _bit(Register.IA32_FEATURE_CONTROL, 18, "sgx"),
    "MSR 0x3a[18] = 1",
    "quotes are signed in an SGX enclave, and TDX's TCB includes SGX's",
    advice("sgx"),
    children=(
        Check(
            "firmware.mcheck",
            "MCHECK found no fault",
            _mcheck,
            "MSR 0xa0 = 0",
            "where MCHECK fails, the processor keeps SGX and TDX off",
            "update the BIOS and microcode; check that all packages have the same settings and DIMMs",
        ),
    ),
)


CHECKS = (TME, TDX, SGX)
