"""Report bodies as plain values for JSON: bytes and bit fields in hexadecimal, names as in the structures."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from tdxstack.wire.sgx_report import SgxReportBody
from tdxstack.wire.td_report_body import TdReportBody
from tdxstack.wire.tdreport import TdAttributes


def body_members(body: TdReportBody | SgxReportBody) -> dict[str, Any]:
    """The report body, as plain values."""
    if isinstance(body, SgxReportBody):
        return {
            "cpu_svn": body.cpu_svn.hex(),
            "misc_select": f"{body.misc_select:08x}",
            "attributes": body.attributes.hex(),
            "mr_enclave": body.mr_enclave.hex(),
            "mr_signer": body.mr_signer.hex(),
            "isv_prod_id": body.isv_prod_id,
            "isv_svn": body.isv_svn,
            "report_data": body.report_data.hex(),
        }
    members: dict[str, Any] = {
        "tee_tcb_svn": body.tee_tcb_svn.hex(),
        "mr_seam": body.mr_seam.hex(),
        "mr_signer_seam": body.mr_signer_seam.hex(),
        "seam_attributes": f"{body.seam_attributes:016x}",
        "td_attributes": f"{body.td_attributes:016x}",
        "td_attribute_names": attribute_names(body.td_attributes),
        "xfam": f"{body.xfam:016x}",
        "mr_td": body.mr_td.hex(),
        "mr_config_id": body.mr_config_id.hex(),
        "mr_owner": body.mr_owner.hex(),
        "mr_owner_config": body.mr_owner_config.hex(),
        "rtmrs": [rtmr.hex() for rtmr in body.rtmrs],
        "report_data": body.report_data.hex(),
    }
    if body.tee_tcb_svn2 is not None and body.mr_service_td is not None:
        members |= {"tee_tcb_svn2": body.tee_tcb_svn2.hex(), "mr_service_td": body.mr_service_td.hex()}
    if body.extension is not None:
        values = {item.name: getattr(body.extension, item.name) for item in fields(body.extension)}
        members |= {name: value.hex() if isinstance(value, bytes) else value for name, value in values.items()}
    return members


def attribute_names(attributes: int) -> list[str]:
    """Names of the TD attributes that are set; bits without a name by number."""
    names = {flag.value.bit_length() - 1: flag.name or "" for flag in TdAttributes}
    return [names.get(bit, f"bit {bit}") for bit in range(64) if attributes >> bit & 1]
