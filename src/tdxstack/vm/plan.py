"""From a TD's record to the facts of its start. Nothing is started."""

from __future__ import annotations

from pathlib import Path

from tdxstack.errors import PlatformMissing
from tdxstack.vm import allocation, choose
from tdxstack.vm.dialects import Dialect, require
from tdxstack.vm.disk import image_format
from tdxstack.vm.firmware_facts import needs_smm
from tdxstack.vm.network import read_port_forward
from tdxstack.vm.qemu.launch import Launch
from tdxstack.vm.record import Run, TdRecord
from tdxstack.vm.spec import VmType
from tdxstack.vm.spec_rules import check_files


def prepare(record: TdRecord) -> tuple[Dialect, Run]:
    """The dialect, and what of the run is known before numbers are allocated; refuses what cannot work.

    Raises:
        UsageError: settings that contradict each other, or a file that is missing.
        PlatformMissing: the dialect cannot do what the spec asks.
    """
    spec = record.spec.check()
    check_files(spec)
    dialect = choose.dialect(spec)
    require(spec, dialect)
    firmware = choose.firmware(spec)
    if dialect.hardware and spec.type is VmType.TD and needs_smm(firmware):
        raise PlatformMissing(
            f"TD {spec.name}: {firmware} needs system management mode, which a TD has not",
            hint="take a TDVF: --firmware inteltdx, or your distribution's OVMF.inteltdx file",
        )
    run = Run(
        mac=record.run.mac,
        ssh_port=record.run.ssh_port,
        accelerator=choose.accelerator(spec),
        dialect=dialect.name,
        firmware=str(firmware) if firmware else None,
    )
    return dialect, run


def allocated(record: TdRecord, run: Run) -> Run:
    """``run`` with its ports, CID and MAC; call it within ``allocation.allocating``."""
    return allocation.fill(record, run)


def launch(record: TdRecord, run: Run) -> Launch:
    """The facts that the argument list needs."""
    spec, place = record.spec, record.place
    disk = spec.image if spec.image is None or not spec.overlay else place.overlay
    return Launch(
        run_dir=place.run_dir,
        log_dir=place.directory,
        accelerator=run.accelerator,
        mac=run.mac,
        firmware=Path(run.firmware) if run.firmware else None,
        smm=needs_smm(Path(run.firmware) if run.firmware else None),
        disk=disk,
        disk_format="qcow2" if disk is None or disk == place.overlay else image_format(disk),
        ssh_port=run.ssh_port,
        ports=tuple(read_port_forward(text) for text in run.ports),
        vsock_cid=run.vsock_cid,
        authorized_keys=place.run_dir / "authorized_keys",
    )


def preview(record: TdRecord) -> tuple[list[str], Run]:
    """The argument list that a start would use now, and the run's facts; nothing is written or reserved."""
    from tdxstack.vm.qemu import argv

    dialect, run, facts = complete(record)
    return argv.build(record.spec, dialect, facts), run


def preview_xml(record: TdRecord) -> str:
    """The domain XML of the machine that a start would make.

    Raises:
        PlatformMissing: libvirt has no word for something that the spec asks.
    """
    from tdxstack.system.process import find
    from tdxstack.vm.libvirt import domain_xml
    from tdxstack.vm.libvirt.domains import uuid_of

    dialect, _, facts = complete(record)
    if reasons := list(domain_xml.refusals(record.spec, dialect)):
        raise PlatformMissing(f"TD {record.name}: " + "; ".join(reasons), hint="start it under QEMU: tdxctl td start")
    identity = domain_xml.Identity(uuid_of(record.name))
    return domain_xml.build(record.spec, dialect, facts, emulator=find(record.spec.qemu), identity=identity)


def complete(record: TdRecord) -> tuple[Dialect, Run, Launch]:
    """Everything that a start would use now, with what the platform adds; nothing is written or reserved."""
    from tdxstack.vm.qemu.launch import completed
    from tdxstack.vm.session import td_session

    dialect, run = prepare(record)
    run = allocation.fill(record, run, preview=True)
    facts = launch(record, run)
    session = td_session(record.spec, facts.firmware, facts.run_dir)
    return dialect, run, completed(facts, dialect, session)
