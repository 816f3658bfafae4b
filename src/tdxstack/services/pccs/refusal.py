"""Why a request is refused: Intel's status codes, three of which are PCCS's own (460, 461, 462)."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """Status codes of the REST interface."""

    OK = 200
    INVALID_REQUEST = 400
    UNAUTHORIZED = 401
    NO_CACHE_DATA = 404
    CONFLICT = 409
    PCS_V3_GONE = 410
    CONTENT_TOO_LARGE = 413
    TOO_MANY_REQUESTS = 429
    INTEGRITY_ERROR = 460
    PLATFORM_UNKNOWN = 461
    CERTS_UNAVAILABLE = 462
    INTERNAL_ERROR = 500
    PCS_ACCESS_FAILURE = 502
    UNAVAILABLE = 503


#: What an answer says; for the statuses that Intel's PCCS has, what clients know from it.
MEANINGS: dict[Status, str] = {
    Status.OK: "Operation successful.",
    Status.INVALID_REQUEST: "Invalid request parameters.",
    Status.UNAUTHORIZED: "Authentication failed.",
    Status.NO_CACHE_DATA: "No cache data for this platform.",
    Status.CONFLICT: "This cannot be used, or not again.",
    Status.PCS_V3_GONE: "The Intel PCS API version 3 reached planned EOL. "
    "Accordingly, collateral from this API version cannot be retrieved any longer.",
    Status.CONTENT_TOO_LARGE: "Content too large.",
    Status.TOO_MANY_REQUESTS: "Too many requests; try again.",
    Status.INTEGRITY_ERROR: "The integrity of the data can't be verified.",
    Status.PLATFORM_UNKNOWN: "The platform was not found in the cache.",
    Status.CERTS_UNAVAILABLE: "Certificates are not available for certain TCBs.",
    Status.INTERNAL_ERROR: "Internal server error occurred.",
    Status.PCS_ACCESS_FAILURE: "Unable to retrieve the collateral from the Intel SGX PCS.",
    Status.UNAVAILABLE: "Server is currently unable to process the request.",
}


class Refusal(Exception):
    """A request that is answered with ``status``; ``detail`` goes into the answer, so it names no secrets."""

    def __init__(self, status: Status, detail: str = "") -> None:
        super().__init__(detail or MEANINGS[status])
        self.status = status
        self.text = MEANINGS[status] + (f" {detail}" if detail else "")
