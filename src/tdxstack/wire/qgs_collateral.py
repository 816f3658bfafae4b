"""What a QGS answers to GET_COLLATERAL, as the documents that the rest of this package has.

Source: Intel DCAP, ``tdx_ql_qve_collateral_t``: texts end with NUL, which their sizes count; CRLs are DER in version
3.1 of the structure, hexadecimal digits or PEM in version 3.0.
"""

from __future__ import annotations

import re

from tdxstack.errors import WireError
from tdxstack.wire.qgs import GetCollateralResponse

_COLLATERAL = "qgs_msg_get_collateral_resp_t"
_SIGNED = re.compile(r'\{"(\w+)":(\{.*\}),"signature":"([0-9a-fA-F]{128})"\}', re.DOTALL)


def documents_of(answer: GetCollateralResponse) -> dict[str, str]:
    """The members of a set of collateral; CRLs in hexadecimal or PEM.

    Raises:
        WireError: a part that is no text, or a document without its signature.
    """
    found = {"root_ca_crl": _crl(answer.root_ca_crl), "pck_crl": _crl(answer.pck_crl)}
    for name in ("pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain"):
        found[name] = _part_text(name, getattr(answer, name))
    for name, member in (("tcb_info", "tcbInfo"), ("qe_identity", "enclaveIdentity")):
        text = _part_text(name, getattr(answer, name))
        found[name], found[f"{name}_signature"] = _signed(name, member, text)
    return found


def _part_text(name: str, data: bytes) -> str:
    try:
        return data.rstrip(b"\0").decode("utf-8")
    except UnicodeDecodeError:
        raise WireError(_COLLATERAL, name, 0, "not UTF-8") from None


def _signed(name: str, member: str, text: str) -> tuple[str, str]:
    """The signed bytes of ``{"MEMBER":{...},"signature":"..."}``, and the signature."""
    match = _SIGNED.fullmatch(text.strip())
    if match is None or match[1] != member:
        raise WireError(_COLLATERAL, name, 0, f"no {member} with its signature")
    return match[2], match[3]


def _crl(data: bytes) -> str:
    """DER in hexadecimal; version 3.0 of the structure has hexadecimal digits with a NUL, or PEM, already."""
    if data[:1] == b"\x30":
        return data.hex()
    return _part_text("crl", data)
