"""Appraisal policies that Intel's Quote Appraisal Library asks a PCCS for: JWTs, kept as they are.

The type follows from the class of the environment that the policy is for (Intel "Quote Appraisal Library").
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from tdxstack.services.pccs import body
from tdxstack.services.pccs.body import bad
from tdxstack.services.pccs.intake import FMSPC

_POLICY = re.compile(r"[A-Za-z0-9_-]{1,1000000}\.[A-Za-z0-9_-]{1,1000000}\.[A-Za-z0-9_-]{0,4096}")
_TDQE_CLASS = "3769258c-75e6-4bc7-8d72-d2b0e224cad2"


class PolicyType(IntEnum):
    """What a policy is for."""

    SGX = 0
    TDX_1_0 = 1
    TDX_1_5 = 2


_CLASSES = {
    "3123ec35-8d38-4ea5-87a5-d6c48b567570": PolicyType.SGX,
    "9eec018b-7481-4b1c-8e1a-9f7c0c8c777f": PolicyType.TDX_1_0,
    "f708b97f-0fb2-4e6b-8b03-8a5bcd1221d3": PolicyType.TDX_1_5,
}


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy. ``identifier`` is the SHA-384 of its text in hexadecimal."""

    identifier: str
    type: PolicyType
    fmspc: str
    is_default: bool
    text: str


def read_policy(data: bytes) -> Policy:
    """Read ``{"is_default": true, "fmspc": "...", "policy": "HEADER.PAYLOAD.SIGNATURE"}``. Raises Refusal (400)."""
    members, _ = body.load(data)
    is_default = members.get("is_default")
    if not isinstance(is_default, bool):
        raise bad("is_default: not a boolean.")
    fmspc = body.text_of(members, "fmspc", FMSPC).upper()
    text = body.text_of(members, "policy", _POLICY)
    return Policy(hashlib.sha384(text.encode()).hexdigest(), _type_of(text), fmspc, is_default, text)


def _type_of(text: str) -> PolicyType:
    payload = _json(_base64url(text.split(".")[1]))
    inner = payload.get("policy_payload") if isinstance(payload, dict) else None
    if not isinstance(inner, str):
        raise bad("policy: no policy_payload.")
    document = _json(inner.encode())
    entries = document.get("policy_array") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise bad("policy: no policy_array.")
    for entry in entries:
        environment = entry.get("environment") if isinstance(entry, dict) else None
        identifier = environment.get("class_id") if isinstance(environment, dict) else None
        name = identifier.lower() if isinstance(identifier, str) else ""
        if name in _CLASSES:
            return _CLASSES[name]
        if name != _TDQE_CLASS:
            raise bad("policy: a class_id that is not known.")
    raise bad("policy: it is for no platform.")


def _base64url(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise bad("policy: its payload is not base64url.") from None


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise bad("policy: its payload is not JSON.") from None
