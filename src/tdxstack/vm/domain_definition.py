"""The domain of a TD while it rests: defined with the TD, defined anew when its settings change, gone with it."""

from __future__ import annotations

from dataclasses import replace

from tdxstack.vm import allocation, plan
from tdxstack.vm import record as records
from tdxstack.vm.libvirt import domains
from tdxstack.vm.libvirt.connection import call, open_connection
from tdxstack.vm.record import TdRecord
from tdxstack.vm.sites import site_of


def define(record: TdRecord) -> TdRecord:
    """Define the TD's domain; the record with the ports and addresses that its definition has, on disk.

    Raises:
        LibvirtFault: libvirt refused, e.g. for another domain of that name.
        PlatformMissing: libvirt cannot do what the settings ask.
    """
    uri = record.spec.connect
    connection = open_connection(uri)
    try:
        with allocation.allocating():
            dialect, run, launch = plan.complete(record)
            record = replace(record, run=run)
            xml = call(lambda: domains.xml_of(connection, record.spec, dialect, launch, site_of(record.spec)), uri)
            call(lambda: domains.define(connection, record.spec, xml), uri)
            records.save(record)
        return record
    finally:
        connection.close()


def undefine(record: TdRecord) -> None:
    """Forget the TD's domain.

    Raises:
        LibvirtFault: libvirtd does not answer.
    """
    uri = record.spec.connect
    connection = open_connection(uri)
    try:
        call(lambda: domains.undefine(connection, record.spec), uri)
    finally:
        connection.close()
