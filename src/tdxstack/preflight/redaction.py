"""What of a host's files a capture keeps: what checks read, without secrets and what tells machines or people apart.

Left out: passwords, keys, tokens, credentials and addresses of network cards on the kernel's command line and in logs
(of which only lines that concern TDX, SGX, KVM and machine checks are kept); API keys and headers of PCCS and of the
quote provider; VNC's and SPICE's passwords in ``qemu.conf``; groups of no interest. SMBIOS: ``tdxstack.wire.smbios``.
"""

from __future__ import annotations

import json
import re

from tdxstack.wire.qcnl import without_comments

LEFT_OUT = "[left-out]"
_PARAMETER = re.compile(r"(?<!\S)([^\s=]{1,120})=(\"[^\"]*\"|\S+)")
_SECRET = re.compile(r"pass|key|token|secret|auth|cred", re.IGNORECASE)
_MAC_ADDRESS = re.compile(r"\b(?:[0-9a-f]{2}[:-]){5,6}[0-9a-f]{2}\b", re.IGNORECASE)
_USER_INFO = re.compile(r"[^\s/:@=\"]{1,200}:[^\s/@\"]{1,200}@")
_LOG_WORDS = re.compile(r"tdx|seam|sgx|kvm|mktme|tme|mce|machine check|microcode|x86/cpu|hibernat|TSX", re.IGNORECASE)
_KEPT_PCCS = ("uri", "HTTPS_PORT", "hosts", "CachingFillMode", "RefreshSchedule", "LogLevel", "OPENSSL_FIPS_MODE")
_KEPT_QEMU = re.compile(r"\s*(?:user|group|dynamic_ownership|security_driver|security_default_confined)\s*=")
_KEPT_GROUPS = ("kvm", "libvirt", "sgx", "sgx_prv", "qgsd")
_KEPT_PACKAGES = ("Package: ", "Status: ", "Version: ")
#: JSON's tokens: a string (which may lack its end) with the colon that makes it a key; what is plain; anything else.
_JSON = re.compile(
    r'(?P<string>"(?:[^"\\\n]|\\.)*)(?P<end>"(?P<key>\s*:)?|)|(?:true|false|null|-?[0-9]{1,10}(?:\.[0-9]+)?)\b|[][{},:\s]|.'
)
_PLAIN_VALUE = re.compile(r'"(?:standard|early|all|[0-9]{1,2}(?:\.[0-9])?)')
_URL = re.compile(r'"https?://[^"\s?#]+')


def line(text: str) -> str:
    """Without the values of parameters whose names or values speak of secrets, user names in URLs, MAC addresses."""

    def clean(found: re.Match[str]) -> str:
        return f"{found[1]}={LEFT_OUT}" if _SECRET.search(found[0]) else found[0]

    return _MAC_ADDRESS.sub("xx:xx:xx:xx:xx:xx", _USER_INFO.sub(f"{LEFT_OUT}@", _PARAMETER.sub(clean, text))) + "\n"


def log(text: str) -> str:
    """The lines of a kernel log that concern TDX and what it needs."""
    return line("\n".join(one for one in text.splitlines() if _LOG_WORDS.search(one)))


def groups(text: str) -> str:
    return "".join(f"{one}\n" for one in text.splitlines() if one.split(":", 1)[0] in _KEPT_GROUPS)


def qemu_conf(text: str) -> str:
    return "".join(f"{one}\n" for one in text.splitlines() if _KEPT_QEMU.match(one))


def qcnl(text: str) -> str:
    """``sgx_default_qcnl.conf``, sound or not: keys, addresses without query and user, values of no secrecy."""

    def clean(found: re.Match[str]) -> str:
        string, end = found["string"], found["end"]
        if string is None:
            return found[0] if len(found[0]) > 1 or found[0] in "{}[],:0123456789" or found[0].isspace() else "?"
        if found["key"] or _PLAIN_VALUE.fullmatch(string):
            return found[0]
        address = _URL.match(_USER_INFO.sub("", string))
        return (address[0] if address else f'"{LEFT_OUT}') + end

    return _JSON.sub(clean, without_comments(text)) + "\n"


def pccs(text: str) -> str:
    """Addresses and modes of PCCS's configuration."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return "{}\n"
    kept = {key: value[key] for key in _KEPT_PCCS if key in value} if isinstance(value, dict) else {}
    return json.dumps(kept, indent=2) + "\n"


def packages(status: str) -> str:
    """Names, states and versions of dpkg's status file."""
    blocks = (
        "\n".join(one for one in block.splitlines() if one.startswith(_KEPT_PACKAGES))
        for block in status.split("\n\n")
    )
    return "\n\n".join(block for block in blocks if block) + "\n"
