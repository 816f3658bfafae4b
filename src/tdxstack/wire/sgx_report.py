"""SGX REPORT body (384 bytes), the form in which the quoting enclave identifies itself.

Intel SGX ECDSA QuoteLibReference (DCAP API), appendix A.4; Intel SDM volume 3D, REPORT structure.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

from tdxstack.errors import WireError
from tdxstack.wire.layout import Layout

SGX_REPORT_BODY_SIZE = 384

_LAYOUT = Layout(
    "sgx_report_body",
    cpu_svn="16s",
    misc_select="I",
    reserved1="12s",
    isv_ext_prod_id="16s",
    attributes="16s",
    mr_enclave="32s",
    reserved2="32s",
    mr_signer="32s",
    reserved3="32s",
    config_id="64s",
    isv_prod_id="H",
    isv_svn="H",
    config_svn="H",
    reserved4="42s",
    isv_family_id="16s",
    report_data="64s",
)


class SgxAttributes(IntFlag):
    """Low 64 bits of an enclave's ATTRIBUTES."""

    INIT = 1 << 0
    DEBUG = 1 << 1
    MODE64BIT = 1 << 2
    PROVISION_KEY = 1 << 4
    EINITTOKEN_KEY = 1 << 5
    KSS = 1 << 7


@dataclass(frozen=True, slots=True)
class SgxReportBody:
    """``sgx_report_body``: byte strings as they stand, numbers little-endian."""

    cpu_svn: bytes
    misc_select: int
    attributes: bytes
    mr_enclave: bytes
    mr_signer: bytes
    isv_prod_id: int
    isv_svn: int
    report_data: bytes
    isv_ext_prod_id: bytes = bytes(16)
    config_id: bytes = bytes(64)
    config_svn: int = 0
    isv_family_id: bytes = bytes(16)
    reserved1: bytes = bytes(12)
    reserved2: bytes = bytes(32)
    reserved3: bytes = bytes(32)
    reserved4: bytes = bytes(42)

    @classmethod
    def from_bytes(cls, data: bytes) -> SgxReportBody:
        """Read 384 bytes. Raises WireError for any other length."""
        if len(data) != SGX_REPORT_BODY_SIZE:
            raise WireError(_LAYOUT.structure, "size", 0, f"{len(data)} bytes where {SGX_REPORT_BODY_SIZE} belong")
        return cls.unpack_from(data, 0)

    @classmethod
    def unpack_from(cls, data: bytes, offset: int) -> SgxReportBody:
        """Read the 384 bytes at ``offset``. Raises WireError if ``data`` ends before they do."""
        (
            cpu,
            misc,
            res1,
            ext,
            attributes,
            enclave,
            res2,
            signer,
            res3,
            config,
            prod,
            svn,
            config_svn,
            res4,
            family,
            rd,
        ) = _LAYOUT.unpack(data, offset)
        return cls(
            cpu,
            misc,
            attributes,
            enclave,
            signer,
            prod,
            svn,
            rd,
            ext,
            config,
            config_svn,
            family,
            res1,
            res2,
            res3,
            res4,
        )

    def to_bytes(self) -> bytes:
        """The 384 bytes. Raises WireError if a field has the wrong length."""
        return _LAYOUT.pack(*(getattr(self, name) for name in _LAYOUT.names))

    @property
    def debug(self) -> bool:
        """Whether the enclave runs in debug mode (ATTRIBUTES bit 1)."""
        return bool(self.attributes[0] & SgxAttributes.DEBUG)
