"""Sizes of machines, and kernel command lines."""

from __future__ import annotations

import pytest

from tdxstack import cloud
from tdxstack.cloud import vmparam
from tdxstack.cloud.vmparam import DEFAULT_CMDLINE, KernelCmdline, VMSpec
from tdxstack.errors import UsageError

GIB = 1 << 30


@pytest.mark.parametrize(
    ("spec", "vcpus", "memory", "numa"),
    [
        (VMSpec(), 4, 16 * GIB, False),
        (VMSpec.model_base(), 4, 16 * GIB, False),
        (VMSpec.model_large(), 8, 32 * GIB, False),
        (VMSpec.model_numa(), 8, 32 * GIB, True),
        (VMSpec(sockets=2, cores=0, memsize=1500 * 1024 + 7), 2, 1500 << 20, True),
        (VMSpec(cores=1), 1, 4 * GIB, False),
    ],
)
def test_sizes(spec: VMSpec, vcpus: int, memory: int, *, numa: bool) -> None:
    assert (spec.vcpus, spec.memory_bytes, spec.is_numa()) == (vcpus, memory, numa)


def test_command_line() -> None:
    line = KernelCmdline()
    assert str(line) == DEFAULT_CMDLINE
    line += "quiet console=ttyS0"
    assert line.is_field_exists("console=ttyS0")
    assert line.field_keys.count("console") == 3
    assert line.get_value("console") == "ttyS0"
    assert line.get_value("rw") == ""
    assert line.get_value("ro") is None
    line.remove_field_from_string("quiet tty0")
    assert not line.is_field_key_exists("quiet")
    line.remove_fields("console")
    assert "console" not in line.field_keys


def test_parts_of_fields_are_no_fields() -> None:
    line = KernelCmdline("nokaslr=0 rw")
    assert not line.is_field_key_exists("kaslr")
    assert not line.is_field_exists("nokaslr")
    line.add_field("rw")
    line.add_field("root", "/dev/vda1")
    assert str(line) == "nokaslr=0 rw root=/dev/vda1"
    assert line == KernelCmdline(str(line))
    assert line != KernelCmdline("rw")


def test_quotes() -> None:
    line = KernelCmdline('dyndbg="file a.c +p" rw')
    assert list(line) == ['dyndbg="file a.c +p"', "rw"]
    with pytest.raises(UsageError, match="not one field"):
        line.add_field("a b")
    with pytest.raises(UsageError, match="not closed"):
        KernelCmdline('a="b')


def test_adding_leaves_the_first_as_it_was() -> None:
    first = KernelCmdline("rw")
    second = first + "quiet"
    assert (str(first), str(second)) == ("rw", "rw quiet")


def test_every_class_from_the_package() -> None:
    import tdxstack.cloud

    for name in (
        "VMGuestFactory",
        "VMSpec",
        "VMImage",
        "VMMLibvirt",
        "VMMQemu",
        "CMDRunner",
        "DUT",
        "MSR",
        "Cluster",
    ):
        assert getattr(tdxstack.cloud, name).__name__ == name
        assert name in dir(tdxstack.cloud)
    assert not hasattr(tdxstack.cloud, "VMMKvm")


def test_names_of_the_package_itself() -> None:
    for name in ("VMSpec", "VMGuestFactory", "VM_TYPE_TD", "VM_STATE_RUNNING", "BOOT_TIMEOUT", "DEFAULT_CMDLINE"):
        assert getattr(cloud, name) is not None
    assert cloud.VM_TYPE_TD == vmparam.VM_TYPE_TD
    assert set(cloud._CLASSES) <= set(dir(cloud))
    for name in ("VM_TYPE_SGX", "VMMKubeVirt", "nothing"):
        with pytest.raises(AttributeError, match=name):
            getattr(cloud, name)
