"""Collateral: what Intel (or a software platform) publishes for verifying quotes, as it was served."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from tdxstack.dcap.signed_json import load_object
from tdxstack.errors import CollateralError

REQUIRED = (
    "tcb_info",
    "tcb_info_signature",
    "tcb_info_issuer_chain",
    "qe_identity",
    "qe_identity_signature",
    "qe_identity_issuer_chain",
    "root_ca_crl",
    "pck_crl",
)
OPTIONAL = ("pck_crl_issuer_chain", "pck_certificate_chain")


@dataclass(frozen=True, slots=True)
class Collateral:
    """The eight items, as text: signed JSON bodies as they stand, signatures (``r || s``) in hexadecimal, chains in
    PEM, CRLs in hexadecimal DER or PEM.

    ``pck_crl_issuer_chain`` is needed only for quotes that hold a PCK certificate without its chain,
    ``pck_certificate_chain`` only for quotes that hold none.
    """

    tcb_info: str
    tcb_info_signature: str
    tcb_info_issuer_chain: str
    qe_identity: str
    qe_identity_signature: str
    qe_identity_issuer_chain: str
    root_ca_crl: str
    pck_crl: str
    pck_crl_issuer_chain: str = ""
    pck_certificate_chain: str = ""

    @classmethod
    def from_json(cls, text: str) -> Collateral:
        """Read the one-document form, an object with these fields as strings.

        Raises CollateralError: its ``item`` is the field that is absent or no string, ``collateral`` if it is no such
        object at all.
        """
        try:
            members = load_object(text, "collateral", flat=True)
        except ValueError as fault:
            raise CollateralError("collateral", str(fault), hint=_HINT) from None
        fields: dict[str, str] = {}
        for name in (*REQUIRED, *OPTIONAL):
            value = members.get(name)
            if value is None and name in OPTIONAL:
                continue
            if not isinstance(value, str) or (not value and name in REQUIRED):
                state = "is absent" if value is None else "is not a text"
                raise CollateralError(name, f"collateral: {name} {state}", hint=_HINT)
            fields[name] = value
        return cls(**fields)

    @classmethod
    def salvage(cls, text: str) -> Collateral:
        """What can be used of a document that :meth:`from_json` refuses; the rest is empty."""
        try:
            members = load_object(text, "collateral", flat=True)
        except ValueError:
            members = {}
        fields = {name: members.get(name) for name in (*REQUIRED, *OPTIONAL)}
        return cls(**{name: value if isinstance(value, str) else "" for name, value in fields.items()})

    def to_json(self) -> str:
        """The one-document form; optional items that are empty are left out."""
        return json.dumps({name: value for name, value in asdict(self).items() if value}, indent=1)


_HINT = "fetch it anew for the platform's FMSPC"
