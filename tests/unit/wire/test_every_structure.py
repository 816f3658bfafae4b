"""Every structure of ``wire`` that is read and written: what is written is read back the same, and what is read from
damaged bytes either fails as WireError or is written back as those very bytes.

A structure that is added without values here fails the first test.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tdxstack.wire
from firmware_file import firmware_file
from tdxstack.errors import WireError
from tdxstack.platform.software import sgx_extension as written
from tdxstack.wire.ccel import CcelTable
from tdxstack.wire.channel import Frame
from tdxstack.wire.efi.variable import VariableData
from tdxstack.wire.hob import ResourceHob, TdHob
from tdxstack.wire.quote import CertificationData, CertificationType, PckIdentity, Quote, QuoteHeader
from tdxstack.wire.seam import PAGE, BlobVersion, SeamSigstruct, TdxBlob
from tdxstack.wire.sgx_extension import SgxExtension
from tdxstack.wire.sgx_registration import RegistrationStatus, RequestType, ServerRequest, StatusFlag
from tdxstack.wire.sgx_report import SgxReportBody
from tdxstack.wire.tcg import EventLog
from tdxstack.wire.td_report_body import TdReportBody
from tdxstack.wire.tdreport import TdInfo, TdReport, TeeTcbInfo
from tdxstack.wire.tdvf import Section, SectionType, TdvfMetadata
from unit.wire.test_ccel import TABLES
from unit.wire.test_channel import frames
from unit.wire.test_quote import quotes, sgx_bodies, sized, td_bodies, u8, u16, u32, u64
from unit.wire.test_tcg import logs
from unit.wire.test_tdreport import modules, reports, tds

#: Versions of a registration's UEFI variables.
VERSIONS = st.sampled_from([1, 2])


@st.composite
def hobs(draw: st.DrawFn) -> TdHob:
    one = st.builds(ResourceHob, resource_type=u32, start=u64, length=u64, attributes=u32, owner=sized(16))
    return TdHob(draw(st.integers(0, 2**52)), tuple(draw(st.lists(one, max_size=6))))


@st.composite
def sigstructs(draw: st.DrawFn) -> SeamSigstruct:
    header = (6, 0xE1, 0x10000, draw(u32), 0x8086, draw(u32))
    raw = bytearray(b"".join(value.to_bytes(4, "little") for value in header) + draw(sized(104)) + draw(sized(1920)))
    count = draw(st.integers(0, 255))
    raw[1024:1028] = count.to_bytes(4, "little")
    return SeamSigstruct.from_bytes(bytes(raw))


@st.composite
def blobs(draw: st.DrawFn) -> TdxBlob:
    module = draw(sized(16)) * (PAGE // 16) * draw(st.integers(1, 3))
    return TdxBlob(draw(st.sampled_from(BlobVersion)), draw(sigstructs()), module)


@st.composite
def requests(draw: st.DrawFn) -> ServerRequest:
    kind = draw(st.sampled_from(RequestType))
    guid = draw(st.sampled_from([guid for guid, found in _request_guids().items() if found is kind]))
    payload = draw(st.binary(max_size=60))
    data = guid + len(payload).to_bytes(2, "little") + draw(u16).to_bytes(2, "little") + draw(sized(12)) + payload
    return ServerRequest(kind, data, draw(VERSIONS), draw(u32))


def _request_guids() -> dict[bytes, RequestType]:
    from tdxstack.wire import sgx_registration

    return sgx_registration._REQUESTS


#: Structure -> values of it.
VALUES: dict[type, st.SearchStrategy[Any]] = {
    CcelTable: TABLES,
    EventLog: logs(),
    Frame: frames,
    Quote: quotes(),
    QuoteHeader: quotes().map(lambda quote: quote.header),
    RegistrationStatus: st.builds(RegistrationStatus, st.builds(StatusFlag, u8), u8, VERSIONS, u32),
    SeamSigstruct: sigstructs(),
    ServerRequest: requests(),
    SgxReportBody: sgx_bodies,
    TdHob: hobs(),
    TdInfo: tds,
    TdReport: reports,
    TdReportBody: td_bodies(),
    TdxBlob: blobs(),
    TeeTcbInfo: modules,
    VariableData: st.builds(
        VariableData, st.uuids(), st.text(st.characters(codec="utf-16-le", exclude_characters="\0")), st.binary()
    ),
}
#: Read from whole files: see the tests below.
OF_A_FILE = {TdvfMetadata}
#: Which bytes of a structure carry nothing, so that reading and writing may give others (see their docstrings).
FREE = {TdHob, TdxBlob}
ORDERED = sorted(VALUES, key=lambda structure: structure.__name__)


def _structures() -> set[type]:
    found = set()
    for module in pkgutil.walk_packages(tdxstack.wire.__path__, "tdxstack.wire."):
        for value in vars(importlib.import_module(module.name)).values():
            if not inspect.isclass(value) or value.__module__ != module.name or issubclass(value, int):
                continue
            if hasattr(value, "from_bytes") and hasattr(value, "to_bytes"):
                found.add(value)
    return found


def test_no_structure_is_left_out() -> None:
    assert _structures() == set(VALUES) | OF_A_FILE


@settings(max_examples=20)
@pytest.mark.parametrize("structure", ORDERED, ids=lambda structure: structure.__name__)
@given(data=st.data())
def test_what_is_written_is_read_back(structure: Any, data: st.DataObject) -> None:
    value = data.draw(VALUES[structure])
    assert structure.from_bytes(value.to_bytes()) == value


@settings(max_examples=20)
@pytest.mark.parametrize("structure", ORDERED, ids=lambda structure: structure.__name__)
@given(data=st.data())
def test_what_is_read_is_written_back(structure: Any, data: st.DataObject) -> None:
    raw = bytearray(data.draw(VALUES[structure]).to_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, min(len(raw), 2000) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    damaged = bytes(raw[: len(raw) - data.draw(st.sampled_from([0, 0, 0, 1, 5]))])
    try:
        value = structure.from_bytes(damaged)
    except WireError as error:
        assert 0 <= error.offset <= len(damaged)
        return
    if structure not in FREE:
        assert value.to_bytes() == damaged
    assert structure.from_bytes(value.to_bytes()) == value


@settings(max_examples=20)
@pytest.mark.parametrize("structure", ORDERED, ids=lambda structure: structure.__name__)
@given(noise=st.binary(max_size=300))
def test_noise_is_refused_or_written_back(structure: Any, noise: bytes) -> None:
    try:
        value = structure.from_bytes(noise)
    except WireError:
        return
    assert structure in FREE or value.to_bytes() == noise


@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(1, 3), u8, st.integers(0, 3)), max_size=6), st.integers(0, 2)
)
def test_metadata_of_a_firmware_file(kinds: list[tuple[int, int, int, int]], extra: int) -> None:
    sections = [
        Section(0x1000, 0x2000, 0xFFFFE000, 0x2000, SectionType.BFV, 1),
        Section(0, 0, 0x809000, 0x2000, SectionType.TD_HOB, extra),
    ]
    for number, (kind, pages, _, attributes) in enumerate(kinds):
        if kind == SectionType.TD_HOB:
            continue
        raw = 0x1000 if kind in (SectionType.BFV, SectionType.CFV) else 0
        sections.append(Section(0, raw, 0x10000000 * (number + 1), pages * 0x1000, kind, attributes))
    file = firmware_file(tuple(sections))
    metadata = TdvfMetadata.from_bytes(file)
    assert metadata.sections == tuple(sections)
    assert file[metadata.offset :].startswith(metadata.to_bytes())


@given(st.sampled_from([CertificationType.PPID_CLEAR, CertificationType.PPID_RSA2048]), u16, u16, st.data())
def test_what_names_a_certificate(kind: CertificationType, pce_svn: int, pce_id: int, data: st.DataObject) -> None:
    ppid = data.draw(sized(16 if kind is CertificationType.PPID_CLEAR else 256))
    identity = PckIdentity(ppid, data.draw(sized(16)), pce_svn, pce_id)
    assert CertificationData(kind, identity.to_bytes()).pck_identity() == identity


extensions = st.builds(
    written.SgxExtension,
    ppid=sized(16),
    components=sized(16),
    pcesvn=u16,
    cpusvn=sized(16),
    pceid=sized(2),
    fmspc=sized(6),
    platform_instance_id=sized(16),
    sgx_type=st.sampled_from(written.SgxType),
    dynamic_platform=st.booleans(),
    cached_keys=st.booleans(),
    smt_enabled=st.booleans(),
)


@given(extensions)
def test_the_sgx_extension_of_a_certificate(extension: written.SgxExtension) -> None:
    read = SgxExtension.from_der(extension.to_bytes())
    again = replace(
        extension,
        ppid=read.ppid,
        components=read.tcb.components,
        pcesvn=read.tcb.pce_svn,
        cpusvn=read.tcb.cpu_svn,
        pceid=read.pce_id,
        fmspc=read.fmspc,
        platform_instance_id=read.platform_instance_id or b"",
        sgx_type=written.SgxType(read.sgx_type),
        dynamic_platform=bool(read.dynamic_platform),
        cached_keys=bool(read.cached_keys),
        smt_enabled=bool(read.smt_enabled),
    )
    assert again.to_bytes() == extension.to_bytes()
