"""Collateral out of files, for ``tdxctl pccs import``: single sets, bundles, and what Intel's admin tool PUTs."""

from __future__ import annotations

import json

from tdxstack.errors import CollateralError, UsageError
from tdxstack.pcs.bundle import BundleSource, Entry, read_bundle
from tdxstack.pcs.source import Enclave, Tee
from tdxstack.services.pccs.admission import API_V4
from tdxstack.services.pccs.intake import Intake
from tdxstack.services.pccs.records import Document
from tdxstack.services.pccs.refusal import Refusal
from tdxstack.services.pccs.service import Service


def bring(service: Service, data: bytes, name: str, *, dry_run: bool = False) -> tuple[int, int]:
    """Check and keep what is in ``data``; how many documents and platforms. With ``dry_run`` it is only checked.

    Raises:
        CollateralError: it is not signed under a trusted root.
        UsageError: it is none of the forms.
    """
    if _is_put(data):
        try:
            brought = Intake(data, API_V4, service.collateral.admission, service.store).read()
        except Refusal as refusal:
            raise CollateralError(name, f"{name}: {refusal.text}") from refusal
        if not dry_run:
            service.store.put_platforms(brought.platforms, brought.documents)
        return len(brought.documents), len(brought.platforms)
    try:
        entries = read_bundle(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise UsageError(f"{name}: neither collateral nor a bundle") from None
    documents = [document for entry in entries for document in _documents(service, entry)]
    if not dry_run:
        service.store.put_documents(documents)
    return len(documents), 0


def _is_put(data: bytes) -> bool:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and "collaterals" in value


def _documents(service: Service, entry: Entry) -> list[Document]:
    """The rows of one set: it is served as the evaluation set that it was fetched as."""
    admit = service.collateral.admission
    wanted = entry.wanted
    source = BundleSource([entry])
    issue = wanted.evaluation
    enclave = Enclave.TD_QE if wanted.tee is Tee.TDX else Enclave.QE
    return [
        admit.tcb(source.tcb_info(wanted.tee, wanted.fmspc, issue), wanted.tee, wanted.fmspc, issue.name),
        admit.identity(source.identity(enclave, issue), enclave, issue.name),
        admit.pck_crl(source.pck_crl(wanted.ca), wanted.ca),
        admit.root_crl(source.root_ca_crl()),
    ]
