"""The interface as an OpenAPI 3.1 document, served at ``/openapi.json``."""

from __future__ import annotations

from typing import Any

from tdxstack import __version__
from tdxstack.services.verifier.evidence import MAX_HELD, MAX_IMA, MAX_LOG, MAX_QUOTE, POLICY_NAME

_BASE64 = "^[A-Za-z0-9+/_-]*={0,2}$"
_TEXT = {"type": "string"}
_TEXT_OR_NONE = {"type": ["string", "null"]}
_PLAIN = {"text/plain": {"schema": _TEXT}}
_PREFIX = "#/components/schemas/"


def document() -> dict[str, Any]:
    """The whole document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tdxstack verifier",
            "version": __version__,
            "description": "Judges quotes and signs what it found (RFC 9334, passport model). REPORTDATA of "
            "the quote must be SHA-512 of the challenge's nonce, followed by held_data if there is some.",
        },
        "paths": {**_attestation_paths(), **_operation_paths()},
        "components": {"schemas": _schemas()},
    }


def _attestation_paths() -> dict[str, Any]:
    body = {"required": True, "content": {"application/json": {"schema": _ref("Evidence")}}}
    return {
        "/v1/challenge": {
            "post": _operation("challenge", "A nonce, to be used once", _json("Challenge"), 429),
        },
        "/v1/attest": {
            "post": {
                **_operation("attest", "Judge evidence", _json("Result"), 400, 409, 413, 429, 502, 503),
                "requestBody": body,
            },
        },
        "/v1/policies": {"get": _operation("policies", "Policies that a request may name", _json("Policies"))},
        "/.well-known/jwks.json": {"get": _operation("jwks", "Keys that tokens are verified with", _json("Keys"))},
    }


def _operation_paths() -> dict[str, Any]:
    return {
        "/healthz": {"get": _operation("healthz", "Whether the process answers", _PLAIN)},
        "/readyz": {"get": _operation("readyz", "Whether the store of used nonces answers", _PLAIN, 503)},
        "/metrics": {"get": _operation("metrics", "Numbers for Prometheus", _PLAIN, 503)},
    }


def _operation(name: str, summary: str, content: dict[str, Any], *refusals: int) -> dict[str, Any]:
    answers: dict[str, Any] = {"200": {"description": "Done.", "content": content}}
    for status in refusals:
        answers[str(status)] = {"description": _MEANINGS[status], "content": _json("Refusal")}
    return {"operationId": name, "summary": summary, "responses": answers}


_MEANINGS = {
    400: "The body, the quote or a log cannot be read, or the policy is none of the verifier's.",
    409: "The nonce is not this verifier's, over, or was used before.",
    413: "The body is too large.",
    429: "Too many requests from one address; Retry-After says when to try again.",
    502: "The collateral for the quote's platform cannot be had, or does not hold.",
    503: "The store of used nonces cannot be reached.",
}


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": _ref(schema)}}


def _ref(schema: str) -> dict[str, str]:
    return {"$ref": _PREFIX + schema}


def _base64(limit: int, text: str) -> dict[str, Any]:
    return {"type": "string", "pattern": _BASE64, "maxLength": limit * 4 // 3 + 4, "description": text}


def _object(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **optional},
        "additionalProperties": False,
    }


def _schemas() -> dict[str, Any]:
    return {
        "Challenge": _object({"nonce": _TEXT, "expires": {"type": "integer", "description": "Unix seconds"}}),
        "Evidence": _object(
            {
                "nonce": _base64(64, "the challenge's nonce, base64 or base64url like all bytes here"),
                "quote": _base64(MAX_QUOTE, "the quote"),
            },
            held_data=_base64(MAX_HELD, "data that the quote vouches for besides the nonce, such as a public key"),
            event_log=_base64(MAX_LOG, "CC event log (data area of the ACPI table CCEL)"),
            ima_list=_base64(MAX_IMA, "Linux's run-time measurement list, ASCII or binary; needs event_log"),
            policy={"type": "string", "pattern": f"^{POLICY_NAME.pattern}$", "description": "one of /v1/policies"},
        ),
        "Result": _object(
            {
                "token": {"type": "string", "description": "EAR, a JWT signed with ES384"},
                "accepted": {"type": "boolean"},
                "status": {"type": "string", "description": "status of the verification"},
                "policy": {"type": "string", "description": "id of the policy that was applied"},
                "failed": {"type": "array", "items": _TEXT, "description": "rules that do not hold"},
                "event_log": {**_TEXT_OR_NONE, "description": "`replays`, or where it does not"},
                "ima_list": {**_TEXT_OR_NONE, "description": "whether the quote binds the list"},
            }
        ),
        "Policies": _object({"policies": {"type": "array", "items": _object({"name": _TEXT, "id": _TEXT})}}),
        "Keys": _object({"keys": {"type": "array", "items": {"type": "object"}}}),
        "Refusal": _object({"error": _TEXT, "detail": _TEXT}),
    }
