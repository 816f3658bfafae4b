"""What a TD's guest may and may not do, and what its host sees of it."""

from __future__ import annotations

import pytest

from tdxstack.cloud.vmguest import VMGuest
from tdxstack.cloud.vmparam import VM_TYPE_EFI, VM_TYPE_TD
from tdxstack.tdtests.guest_shell import answer
from tdxstack.tdtests.machines import MachineMaker
from tdxstack.vm import lifecycle
from tdxstack.vm.encryption import CLEAR, ENCRYPTED, check_encryption

pytestmark = pytest.mark.category("guest")


@pytest.mark.requires("tdx-hardware")
def test_memory_confidentiality(td: VMGuest) -> None:
    """The host finds nothing of the guest's kernel in its memory."""
    assert check_encryption(td.name).verdict == ENCRYPTED


@pytest.mark.requires("software-platform")
def test_no_memory_confidentiality_on_software(td: VMGuest) -> None:
    """The stand-in encrypts nothing, and the check does not say otherwise."""
    assert check_encryption(td.name).verdict == CLEAR


def test_no_memory_confidentiality_without_tdx(fresh: MachineMaker) -> None:
    """The same check on a machine without TDX finds the kernel: it would have found it in a TD."""
    assert check_encryption(fresh(VM_TYPE_EFI).name).verdict == CLEAR


@pytest.mark.requires("tdx-hardware")
def test_cpu_off(td: VMGuest) -> None:
    """A TD's CPU cannot be taken off line."""
    said = answer(td, "echo 0 >/sys/devices/system/cpu/cpu1/online 2>/dev/null && echo off || echo refused")
    assert said == "refused"


def test_audit(td: VMGuest) -> None:
    """The allow-list is judged; what the machine needs is on it."""
    items = lifecycle.call_guest(td.name, "audit", {})["items"]
    allowed = {item["driver"] for item in items if item["verdict"] == "allowed"}
    assert {"virtio_blk", "virtio_net", "virtio_console"} <= allowed
    assert {"APIC", "DSDT", "FACP", "CCEL"} <= {item["name"] for item in items if item["verdict"] == "allowed"}


def test_rtmr3_can_be_extended(fresh: MachineMaker) -> None:
    """RTMR3 is the guest's to extend, and only grows."""
    guest = fresh(VM_TYPE_TD)
    before = lifecycle.call_guest(guest.name, "rtmr.read")["rtmr"][3]
    lifecycle.call_guest(guest.name, "rtmr.extend", {"index": 3, "digest": "ab" * 48})
    after = lifecycle.call_guest(guest.name, "rtmr.read")["rtmr"]
    assert after[3] != before
