from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host_trees import LOG_1_5, LOG_UPSTREAM, cpuinfo
from tdxstack.platform import package_lists
from tdxstack.preflight import facts
from tdxstack.preflight.facts import CommandLine, CpuInfo, FactMalformed


def test_cpuinfo() -> None:
    cpu = CpuInfo.parse(cpuinfo().decode())
    assert (cpu.vendor, cpu.family, cpu.model, cpu.logical, cpu.sockets) == ("GenuineIntel", 6, 0xCF, 2, 2)
    assert "vmx" in cpu.flags


@pytest.mark.parametrize("text", ["", "processor : 0\n", "processor: 0\ncpu family: x\nmodel: 1\nstepping: 1\n"])
def test_cpuinfo_that_is_none(text: str) -> None:
    with pytest.raises(FactMalformed):
        CpuInfo.parse(text)


def test_command_lines_are_tokenised_and_not_searched() -> None:
    line = CommandLine.parse(
        'ro notnohibernate kvm_intel.tdx=0 kvm-intel.tdx=1 dyndbg="file a.c +p; nohibernate" -- nohibernate'
    )
    assert not line.has("nohibernate")
    assert line.value("kvm_intel.tdx") == "1"
    assert line.value("dyndbg") == "file a.c +p; nohibernate"
    assert line.has("ro") and line.value("ro") is None


def test_versions() -> None:
    assert facts.version("6.17.0-5-generic") == (6, 17, 0)
    assert facts.version("1.5.06") == (1, 5, 6)
    assert facts.version("2.0.08.00") == (2, 0, 8, 0)
    with pytest.raises(FactMalformed):
        facts.version("v1")


def test_the_upstream_log() -> None:
    log = facts.read_log(LOG_UPSTREAM)
    assert log.upstream and not log.stack_1_5
    assert log.key_ids == (64, 127)
    assert log.initialized
    assert log.convertible_ranges == 2
    assert log.module is not None
    assert (log.module.major, log.module.minor, log.module.update, log.module.build_number) == (1, 5, 16, 1067)


def test_the_1_5_log() -> None:
    log = facts.read_log(LOG_1_5)
    assert log.stack_1_5 and not log.upstream
    assert log.initialized
    assert log.module is not None
    assert (log.module.update, log.module.build_number, log.module.build_date) == (None, 698, "20240129")


def test_failed_seamcalls() -> None:
    log = facts.read_log("[1.0] virt/tdx: SEAMCALL (0x0000000000000021) failed: 0xc000090000000000\n")
    assert log.seamcalls == [(0x21, 0xC000090000000000)]
    old = facts.read_log("tdx: SEAMCALL (34) failed: 0xc000050500000000")
    assert old.seamcalls == [(34, 0xC000050500000000)]
    for line in (
        "tdx: SEAMCALL failed: leaf 34, error 0xc000050500000000",
        "[1.0] SEAMCALL[0x22] failed with 0xc000050500000000",
        "virt/tdx: SEAMCALL 0x22 failed 0xc000050500000000",
        "[1.0] tdx: seamcall leaf 0x22 returned 0xC000050500000000",
    ):
        assert facts.read_log(line).seamcalls == [(0x22, 0xC000050500000000)], line
    assert facts.read_log("tdx: SEAMCALL failed, error 0xc000050500000000").seamcalls == [(None, 0xC000050500000000)]


DPKG = """Package: a
Status: install ok installed
Version: 1
Description: x
 Status: no

Package: b
Status: deinstall ok config-files
Version: 2
"""


def test_packages() -> None:
    assert package_lists.read_dpkg_status(DPKG) == {"a": "1"}
    assert package_lists.read_rpm_list("qemu-kvm\t10.1.0-1.el10\nbroken\n") == {"qemu-kvm": "10.1.0-1.el10"}


@given(st.text(max_size=300))
def test_no_text_crashes_a_parser(text: str) -> None:
    CommandLine.parse(text)
    facts.read_log(text)
    package_lists.read_dpkg_status(text)
    package_lists.read_rpm_list(text)
    package_lists.read_os_release(text)
    for parse in (CpuInfo.parse, facts.version):
        try:
            parse(text)
        except FactMalformed:
            continue
