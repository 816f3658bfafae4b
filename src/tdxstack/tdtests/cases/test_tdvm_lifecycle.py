"""A TD's life: suspended and resumed, shut down and started, saved and taken up again."""

from __future__ import annotations

import pytest

from tdxstack.cloud.vmguest import VMGuest
from tdxstack.cloud.vmparam import VM_STATE_PAUSE, VM_STATE_RUNNING, VM_STATE_SHUTDOWN, VM_TYPE_TD
from tdxstack.errors import TdxStackError
from tdxstack.tdtests.guest_shell import answer, boot_id
from tdxstack.tdtests.machines import MachineMaker
from tdxstack.vm import changes

pytestmark = pytest.mark.category("lifecycle")


def test_tdvm_suspend_resume(td: VMGuest) -> None:
    before = boot_id(td)
    td.suspend()
    assert td.wait_for_state(VM_STATE_PAUSE)
    td.resume()
    assert td.wait_for_state(VM_STATE_RUNNING)
    assert boot_id(td) == before


def test_tdvm_start_shutdown(fresh: MachineMaker) -> None:
    guest = fresh(VM_TYPE_TD)
    before = boot_id(guest)
    guest.shutdown()
    assert guest.wait_for_state(VM_STATE_SHUTDOWN)
    guest.start()
    assert guest.wait_for_state(VM_STATE_RUNNING)
    guest.wait_for_ssh_ready()
    assert boot_id(guest) != before


@pytest.mark.requires("td-saving")
def test_tdvm_save_restore(fresh: MachineMaker) -> None:
    guest = fresh(VM_TYPE_TD)
    before = boot_id(guest)
    answer(guest, "echo kept >/run/kept")
    changes.save(guest.name)
    assert guest.state == VM_STATE_SHUTDOWN
    guest.start()
    guest.wait_for_ssh_ready()
    assert (boot_id(guest), answer(guest, "cat /run/kept")) == (before, "kept")


def test_tdvm_wrong_state(td: VMGuest) -> None:
    """What the state does not allow is refused, and changes nothing."""
    with pytest.raises(TdxStackError, match="while running"):
        td.resume()
    with pytest.raises(TdxStackError, match="while running"):
        td.start()
    assert td.state == VM_STATE_RUNNING
