"""The back ends by which a TD's machine is driven: the register behind the specification's ``via``."""

from __future__ import annotations

from tdxstack.platform.base import TdSession
from tdxstack.vm.dialects import Dialect
from tdxstack.vm.machine import Machine
from tdxstack.vm.qemu.launch import Launch
from tdxstack.vm.record import TdRecord
from tdxstack.vm.sites import site_of
from tdxstack.vm.spec import Via


def open_machine(record: TdRecord, dialect: Dialect, launch: Launch, session: TdSession) -> Machine:
    """The machine of a TD by the back end that its specification names; nothing is started."""
    if record.spec.via is Via.LIBVIRT:
        from tdxstack.vm.libvirt.machine import LibvirtMachine

        return LibvirtMachine(record.spec, dialect, launch, session, site_of(record.spec))
    from tdxstack.vm.qemu.machine import QemuMachine

    return QemuMachine(record.spec, dialect, launch, session, record.place.qemu_log)
