"""Query parameters of the routes: their forms, and what is made of them."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Query

from tdxstack.pcs.source import STANDARD, Ca, EvaluationSet
from tdxstack.services.pccs.refusal import Refusal, Status


def either_case(*words: str) -> str:
    """A pattern that matches one of ``words`` in any case."""
    return "^(" + "|".join("".join(f"[{c.lower()}{c.upper()}]" for c in word) for word in words) + ")$"


Fmspc = Annotated[str, Query(pattern="^[0-9A-Fa-f]{12}$", description="FMSPC of the platform")]
Update = Annotated[str | None, Query(pattern=either_case("standard", "early"), description="evaluation set")]
UpdateOrAll = Annotated[
    str | None, Query(pattern=either_case("standard", "early", "all"), description="evaluation sets to fetch")
]
Number = Annotated[
    int | None,
    Query(ge=1, le=999_999_999, alias="tcbEvaluationDataNumber", description="evaluation set, by its number"),
]
CaName = Annotated[str, Query(pattern=either_case("processor", "platform"), description="the intermediate CA")]
Encoding = Annotated[str | None, Query(max_length=64, description="der: DER; all else: DER in hexadecimal")]
QeId = Annotated[str, Query(pattern="^[!-~]{1,260}$", description="QE_ID, or the platform's id")]
CpuSvn = Annotated[str, Query(pattern="^[0-9A-Fa-f]{32}$", description="CPUSVN")]
PceSvn = Annotated[str, Query(pattern="^[0-9A-Fa-f]{4}$", description="PCE SVN, little-endian")]
PceId = Annotated[str, Query(pattern="^[0-9A-Fa-f]{4}$", description="PCE id, little-endian")]
EncPpid = Annotated[str | None, Query(pattern="^[0-9A-Fa-f]{768}$", description="PPID, encrypted by RSA-3072")]
CrlUri = Annotated[str, Query(pattern="^https://[!-~]{1,2040}$", description="distribution point of a CRL")]
PlatformSource = Annotated[
    str | None,
    Query(
        pattern=r"^(reg|reg_na|\[ *([0-9A-Fa-f]{12}( *, *[0-9A-Fa-f]{12}){0,63})? *\])$",
        description="reg: registered and new; reg_na: without certificates; [FMSPC,...]: in the cache",
    ),
]
RefreshType = Annotated[str | None, Query(pattern="^certs$", description="certs: PCK certificates")]
OptionalFmspcs = Annotated[
    str | None,
    Query(pattern="^([0-9A-Fa-f]{12}(,[0-9A-Fa-f]{12}){0,63}|all)$", description="FMSPCs, or all"),
]

#: Intel's hosts, and those for trials before production (``sbx-``, ``sbx.``).
_ROOT_HOST = re.compile(r"(?:[a-z0-9-]+-)?certificates\.trustedservices\.intel\.com")
_API_HOST = re.compile(r"(?:[a-z0-9-]+[.-])?api\.trustedservices\.intel\.com")
_ROOT_CRL = re.compile(r"/IntelSGXRootCA\.[A-Za-z0-9]{1,8}")
_PCK_CRL = re.compile(r"/sgx/certification/v[1-9][0-9]?/pckcrl")


def evaluation_of(update: str | None, number: int | None = None) -> EvaluationSet:
    """The evaluation set that a request asks for. Raises Refusal if it asks for two."""
    if number is not None:
        if update is not None:
            raise Refusal(Status.INVALID_REQUEST, "update and tcbEvaluationDataNumber exclude each other.")
        return EvaluationSet(str(number))
    return EvaluationSet(update.lower()) if update else STANDARD


def ca_of(name: str) -> Ca:
    """The CA that a request names."""
    return Ca(name.lower())


def fmspcs_of(text: str | None) -> list[str]:
    """FMSPCs out of ``[A,B]`` or ``A,B``; none means all."""
    words = (text or "").strip("[] ").split(",")
    return [word.strip().upper() for word in words if word.strip() and word.strip() != "all"]


def check_crl_uri(uri: str) -> str:
    """The URI, if it is one of Intel's distribution points. Raises Refusal: this service fetches nothing else."""
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise Refusal(Status.INVALID_REQUEST) from None
    root = _ROOT_HOST.fullmatch(host) and _ROOT_CRL.fullmatch(parts.path) and not parts.query
    pck = _API_HOST.fullmatch(host) and _PCK_CRL.fullmatch(parts.path) and parts.query
    if not (root or pck) or port not in (None, 443) or parts.username is not None:
        raise Refusal(Status.INVALID_REQUEST, "The URI is not a distribution point of Intel's.")
    return uri
