"""From a TD's record to the facts of its start. Nothing is started."""

from __future__ import annotations

from pathlib import Path

from tdxstack.errors import PlatformMissing
from tdxstack.vm import allocation
from tdxstack.vm.dialects import Dialect, require
from tdxstack.vm.network import read_port_forward
from tdxstack.vm.qemu.launch import Launch
from tdxstack.vm.record import OVERLAY, Run, TdRecord
from tdxstack.vm.sites import site_of
from tdxstack.vm.spec import VmType
from tdxstack.vm.spec_rules import checked


def prepare(record: TdRecord) -> tuple[Dialect, Run]:
    """The dialect, and what of the run is known before numbers are allocated; refuses what cannot work.

    Raises:
        UsageError: settings that contradict each other, or a file that is missing.
        PlatformMissing: the dialect cannot do what the spec asks.
    """
    spec = checked(record.spec)
    site = site_of(spec)
    site.check(spec)
    dialect = site.dialect(spec)
    require(spec, dialect)
    firmware = site.firmware(spec)
    if dialect.hardware and spec.type is VmType.TD and site.needs_smm(firmware):
        raise PlatformMissing(
            f"TD {spec.name}: {firmware} needs system management mode, which a TD has not",
            hint="take a TDVF: --firmware inteltdx, or your distribution's OVMF.inteltdx file",
        )
    run = Run(
        mac=record.run.mac,
        ssh_port=record.run.ssh_port,
        accelerator=site.accelerator(spec),
        dialect=dialect.name,
        firmware=str(firmware) if firmware else None,
    )
    return dialect, run


def allocated(record: TdRecord, run: Run) -> Run:
    """``run`` with its ports, CID and MAC; call it within ``allocation.allocating``."""
    return allocation.fill(record, run)


def launch(record: TdRecord, run: Run) -> Launch:
    """The facts that the argument list needs."""
    spec = record.spec
    site = site_of(spec)
    run_dir, directory = site.run_dir(spec.name), site.directory(spec.name)
    overlay = directory / OVERLAY
    disk = spec.image if spec.image is None or not spec.overlay else overlay
    firmware = Path(run.firmware) if run.firmware else None
    return Launch(
        run_dir=run_dir,
        log_dir=directory,
        accelerator=run.accelerator,
        mac=run.mac,
        firmware=firmware,
        smm=site.needs_smm(firmware),
        disk=disk,
        disk_format="qcow2" if disk is None or disk == overlay else site.image_format(disk),
        ssh_port=run.ssh_port,
        ports=tuple(read_port_forward(text) for text in run.ports),
        vsock_cid=run.vsock_cid,
        authorized_keys=run_dir / "authorized_keys",
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
    from tdxstack.vm.libvirt import domain_xml
    from tdxstack.vm.libvirt.domains import uuid_of

    dialect, _, facts = complete(record)
    if reasons := list(domain_xml.refusals(record.spec, dialect)):
        raise PlatformMissing(f"TD {record.name}: " + "; ".join(reasons), hint="start it under QEMU: tdxctl td start")
    identity = domain_xml.Identity(uuid_of(record.name))
    return domain_xml.build(
        record.spec, dialect, facts, emulator=site_of(record.spec).program(record.spec.qemu), identity=identity
    )


def complete(record: TdRecord) -> tuple[Dialect, Run, Launch]:
    """Everything that a start would use now, with what the platform adds; nothing is written or reserved."""
    from tdxstack.vm.qemu.launch import completed
    from tdxstack.vm.session import td_session

    dialect, run = prepare(record)
    run = allocation.fill(record, run, preview=True)
    facts = launch(record, run)
    if dialect.hardware:
        # Nothing is added to it, and it can be shown where no TD can run.
        return dialect, run, facts
    session = td_session(record.spec, facts.firmware, facts.run_dir)
    return dialect, run, completed(facts, dialect, session)
