"""What signs and certifies quotes: SGX devices, QGS, the quote provider's configuration, PCCS and registration."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tdxstack.platform.linux_host_files import HostFiles, HostReadError
from tdxstack.platform.linux_host_source import Answer
from tdxstack.preflight import msr
from tdxstack.preflight.bios import advice
from tdxstack.preflight.host import Host, World
from tdxstack.preflight.model import Check, Finding, failed, judged, passed, skipped, warned
from tdxstack.preflight.msr import Register
from tdxstack.wire.qcnl import QcnlConfig

QCNL = "/etc/sgx_default_qcnl.conf"
QGS_CONFIG = "/etc/qgs.conf"
QGS_SOCKET = "/var/run/tdx-qgs/qgs.socket"
PCCS_CONFIGS = ("/opt/intel/sgx-dcap-pccs/config/default.json", "/etc/pccs/default.json")
REGISTRATION_LOG = "/var/log/mpa_registration.log"
REGISTRATION_STATUS = "/sys/firmware/efi/efivars/SgxRegistrationStatus-f236c5dc-a491-4bbe-bcdd-88885770df45"
TRUST_STORE = "/etc/ssl/certs/ca-certificates.crt"
LOCAL = ("localhost", "127.0.0.1", "::1")


def _devices(host: Host) -> Finding:
    missing = [path for path in ("/dev/sgx_enclave", "/dev/sgx_provision") if not host.files.exists(path)]
    if missing and not host.source.tells(Answer.DEVICES):
        return warned("the tree keeps no devices")
    if missing:
        return failed(f"{', '.join(missing)} absent")
    return passed("/dev/sgx_enclave and /dev/sgx_provision are there")


def _qgs(host: Host) -> Finding:
    package = host.package("tdx-qgs", "sgx-qgs")
    state = host.services.get("qgsd.service")
    if state is None and not host.source.tells(Answer.SERVICES):
        return warned(f"{package or 'no package tdx-qgs'}; the tree keeps no states of services")
    if package is None and state is None:
        return failed("no package tdx-qgs and no unit qgsd.service")
    return judged(state == "active", f"{package or 'qgsd'}: qgsd.service is {state or 'not installed'}")


def qgs_port(text: str) -> str | None:
    """The vsock port of ``qgs.conf``; None: QGS listens on its Unix socket."""
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "port" and value.strip():
            return value.strip()
    return None


def _transport(host: Host) -> Finding:
    port = qgs_port(host.files.text_or_none(QGS_CONFIG) or "")
    socket = host.files.exists(QGS_SOCKET)
    evidence = f"{QGS_CONFIG}: port = {port or 'not set'}; {QGS_SOCKET} {'exists' if socket else 'is absent'}"
    if host.world is World.UPSTREAM:
        if socket:
            return passed(evidence)
        if not port and not host.source.tells(Answer.SERVICES):
            return warned(f"{evidence}; a tree copied by hand keeps no sockets")
        fix = f"remove port= from {QGS_CONFIG} and restart qgsd: libvirt reaches QGS by its Unix socket only"
        return failed(evidence, fix if port else "systemctl restart qgsd")
    if not port and not socket and not host.files.exists(QGS_CONFIG) and not host.source.tells(Answer.SERVICES):
        return warned(f"{evidence}; the tree has neither")
    if port and not port.isdigit():
        return failed(f"{evidence}: not a port")
    return judged(bool(port) or socket, evidence)


def _qcnl(host: Host) -> Finding:
    if not host.files.exists(QCNL) and not host.source.tells(Answer.SERVICES):
        return skipped(f"the tree has no {QCNL}")
    config = QcnlConfig.from_text(host.files.text(QCNL))
    owner = host.files.owner(QCNL)
    if owner and not owner[2] & 0o004:
        return failed(f"{QCNL}: mode {owner[2]:#o}: services that are not root cannot read it", f"chmod 644 {QCNL}")
    if config.unknown_keys:
        return warned(f"{QCNL}: keys that the library ignores: {', '.join(config.unknown_keys[:6])}")
    if config.wrong_values:
        return warned(f"{QCNL}: values that the library ignores: {', '.join(config.wrong_values[:6])}")
    return passed(f"{QCNL}: {len(config.values)} keys")


def _qcnl_url(host: Host) -> Finding:
    config = QcnlConfig.from_text(host.files.text(QCNL))
    url = config.pccs_url
    parts = _split(url)
    if parts is None or parts.scheme != "https" or not parts.hostname:
        return failed(f"{QCNL}: pccs_url = {url!r}: no https URL")
    if "/sgx/certification/" not in parts.path:
        return failed(f"{QCNL}: pccs_url = {url!r}: path without /sgx/certification/v4/")
    if "/v4" not in parts.path:
        return failed(f"{QCNL}: pccs_url = {url!r}: TDX needs API version 4 (version 3 ended)")
    return passed(f"{QCNL}: pccs_url = {url}")


def _split(url: str) -> Any:
    try:
        return urlsplit(url)
    except ValueError:
        return None


def _qcnl_tls(host: Host) -> Finding:
    config = QcnlConfig.from_text(host.files.text(QCNL))
    parts = _split(config.pccs_url)
    local = parts is not None and parts.hostname in LOCAL
    evidence = f"{QCNL}: use_secure_cert = {str(config.use_secure_cert).lower()}, pccs_url = {config.pccs_url}"
    if config.use_secure_cert and local and trusted_certificate(host.files) is None:
        return failed(f"{evidence}: a local PCCS has a self-signed certificate")
    if not config.use_secure_cert and not local:
        return warned(f"{evidence}: the server's certificate is not verified")
    return passed(evidence)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate file."""

    path: str
    text: str


def trusted_certificate(files: HostFiles) -> Certificate | None:
    """The local PCCS's certificate, if it is among the system's trusted ones (compared as text)."""
    for directory in ("/opt/intel/sgx-dcap-pccs/ssl_key", "/etc/pccs/ssl_key"):
        path = f"{directory}/file.crt"
        if certificate := files.text_or_none(path):
            return Certificate(path, certificate) if certificate in (files.text_or_none(TRUST_STORE) or "") else None
    return None


def _pccs_config(host: Host) -> tuple[str, dict[str, Any]] | None:
    for path in PCCS_CONFIGS:
        try:
            text = host.files.text(path)
        except HostReadError as error:
            if error.missing:
                continue
            raise
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise HostReadError(path, f"not JSON: {error}") from error
        if not isinstance(value, dict):
            raise HostReadError(path, "not a JSON object")
        return path, value
    return None


def _pccs(host: Host) -> Finding:
    config = QcnlConfig.from_text(host.files.text(QCNL))
    parts = _split(config.pccs_url)
    if parts is None or parts.hostname not in LOCAL:
        return passed(
            f"pccs_url names another machine ({parts.hostname if parts else 'unreadable'}): no PCCS is needed here"
        )
    state = host.services.get("pccs.service")
    if state is None and not host.source.tells(Answer.SERVICES):
        return warned("the tree keeps no states of services; pccs_url names this machine")
    return judged(state == "active", f"pccs.service is {state or 'not installed'}; pccs_url names this machine")


def _pccs_uri(host: Host) -> Finding:
    found = _pccs_config(host)
    if found is None:
        return skipped("no PCCS configuration on this machine")
    path, config = found
    uri = str(config.get("uri", ""))
    return judged(
        "/v4/" in uri, f"{path}: uri = {uri or 'not set'}", f'set "uri" to .../sgx/certification/v4/ in {path}'
    )


def _environment(host: Host) -> Finding:
    found = _pccs_config(host)
    if found is None:
        return skipped("no PCCS configuration on this machine")
    if not host.source.tells(Answer.REGISTERS):
        return skipped("the tree keeps no registers")
    path, config = found
    uri = str(config.get("uri", ""))
    production, evidence, _ = msr.field(host, Register.PLATFORM_INFO, 27, 27, lambda value: value == 0)
    sandbox = "//sbx." in uri
    text = f"{evidence}: {'production' if production else 'pre-production'} part; {path}: uri = {uri}"
    return judged(production != sandbox, text)


def _registration(host: Host) -> Finding:
    log = host.files.text_or_none(REGISTRATION_LOG)
    if log:
        return _registration_log(host, log)
    try:
        data = host.files.read(REGISTRATION_STATUS)
    except HostReadError as error:
        if error.missing:
            return warned(f"neither {REGISTRATION_LOG} nor the UEFI variable SgxRegistrationStatus")
        raise
    # efivarfs: attributes u32, then version u16, size u16, status u16 (bit 0: registration completed), error u8.
    if len(data) < 11:
        return failed(f"SgxRegistrationStatus: {len(data)} bytes: {data.hex()}")
    status, error_code = int.from_bytes(data[8:10], "little"), data[10]
    evidence = f"UEFI variable SgxRegistrationStatus: status {status:#x}, error {error_code:#x}"
    return judged(bool(status & 1) and not error_code, evidence, advice("sgx_registration"))


def _registration_log(host: Host, log: str) -> Finding:
    last = ""
    for line in log.splitlines():
        if "passed successfully" in line or "won't be send" in line or "failed" in line.lower():
            last = line.strip()
    evidence = f"{REGISTRATION_LOG}: {last or 'no result'}"
    if "passed successfully" in last:
        return passed(evidence)
    if "won't be send" in last:
        retrieval = "or register indirectly: PCKIDRetrievalTool -url PCCS -use_secure_cert false"
        return failed(evidence, f"{advice('sgx_registration')}; {retrieval}")
    return failed(evidence) if last else warned(evidence)


QCNL_CHECK = Check(
    "attestation.qcnl",
    "Quote provider's configuration",
    _qcnl,
    f"{QCNL} is JSON with comments, with keys that are known",
    "the library falls back to defaults in silence: error 0xb030",
    "tdxctl host qcnl --check",
    children=(
        Check(
            "attestation.qcnl_url",
            "PCCS address",
            _qcnl_url,
            "an https URL that ends in /sgx/certification/v4/",
            "a wrong one shows as 0xe019, 0xb006 or 'no data' (0xe047)",
            "tdxctl host qcnl --set pccs_url=https://localhost:8081/sgx/certification/v4/",
        ),
        Check(
            "attestation.qcnl_tls",
            "PCCS certificate",
            _qcnl_tls,
            "a certificate that the system trusts, or use_secure_cert = false for a PCCS on this machine",
            "a self-signed one is refused: 0xb00a, 0xb033, 0xe065, CURL error 60",
            "tdxctl host qcnl --set use_secure_cert=false (local PCCS only), or install the certificate",
        ),
        Check(
            "attestation.pccs",
            "PCCS",
            _pccs,
            "a PCCS at pccs_url",
            "without it QGS has no PCK certificate: 0xe011",
            "systemctl enable --now pccs; or tdxctl pccs serve",
            children=(
                Check(
                    "attestation.pccs_uri",
                    "PCCS asks version 4",
                    _pccs_uri,
                    "uri with /v4/",
                    "version 3 of the provisioning service ended (410) and never knew TDX",
                    "edit the PCCS's configuration and delete its old database",
                ),
                Check(
                    "attestation.environment",
                    "Provisioning service suits the processor",
                    _environment,
                    "api. for production parts, sbx.api. for pre-production parts",
                    "the other service does not know the platform: 404, and quotes fail with 0xe022",
                    'set "uri" in the PCCS\'s configuration to the other service and delete its database',
                ),
            ),
        ),
    ),
)

CHECKS = (
    Check(
        "attestation.sgx_devices",
        "SGX devices",
        _devices,
        "/dev/sgx_enclave and /dev/sgx_provision",
        "the quoting enclave runs in SGX",
        "use a kernel with CONFIG_X86_SGX=y and enable SGX in the BIOS",
    ),
    Check(
        "attestation.qgs",
        "Quote Generation Service",
        _qgs,
        "qgsd.service is active",
        "without it a TD gets no quote: 'Failed to get the quote', GetQuote status 0x8000000000000001",
        "tdxctl host install --only attestation; systemctl enable --now qgsd",
        children=(
            Check(
                "attestation.qgs_transport",
                "QGS is where QEMU looks",
                _transport,
                f"upstream: {QGS_SOCKET}; 1.5 stack: vsock port in {QGS_CONFIG} or the socket",
                "QEMU passes the TD's request to one address only",
                f"set or remove port= in {QGS_CONFIG}, then systemctl restart qgsd",
            ),
        ),
    ),
    QCNL_CHECK,
    Check(
        "attestation.registration",
        "Platform registration",
        _registration,
        "the platform is registered with the provisioning service",
        "else there is no PCK certificate for it: 0xb010, 0xe047, 404",
        advice("sgx_registration"),
    ),
)
