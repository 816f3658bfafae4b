"""TDs as libvirt's domains: which domain is whose, what state it is in, how it is defined.

Functions with a ``connection`` take a ``virConnect`` and let libvirt's errors through: ``connection.call`` turns them
into ours.
"""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

from tdxstack.errors import PlatformMissing, StateError
from tdxstack.system import paths
from tdxstack.system.files import write_atomic
from tdxstack.vm.dialects import Dialect
from tdxstack.vm.libvirt import binding, domain_xml
from tdxstack.vm.libvirt.domain_xml import Identity
from tdxstack.vm.libvirt.endings import ending_of_shutoff
from tdxstack.vm.machine import Ending
from tdxstack.vm.qemu.launch import Launch
from tdxstack.vm.record import Place
from tdxstack.vm.site import Site
from tdxstack.vm.spec import TdSpec

#: virDomainState: NOSTATE 0, RUNNING 1, BLOCKED 2, PAUSED 3, SHUTDOWN 4, SHUTOFF 5, CRASHED 6, PMSUSPENDED 7.
ALIVE = frozenset({1, 2, 3, 4, 7})
HALTED = frozenset({3, 7})
SHUTOFF = 5
#: What stands for a domain that libvirt does not know.
ABSENT = -1
NAMESPACE = uuid.UUID("6e8b1f0e-6f6b-5a53-9a6e-0d7464787374")


def uuid_of(name: str) -> str:
    """The domain's UUID: made from this home and the TD's name, so that no other home's domain is taken for it."""
    return str(uuid.uuid5(NAMESPACE, f"{paths.home()}\0{name}"))


def is_local(uri: str) -> bool:
    """Whether a URI's libvirtd is on this machine."""
    return urlsplit(uri).hostname is None


def is_system(uri: str) -> bool:
    """Whether a URI's libvirtd is the system's, whose QEMUs run as another user than ours."""
    return urlsplit(uri).path.rstrip("/").endswith("/system")


def find(connection: Any, uuid_text: str) -> Any:
    """The domain, or None."""
    libvirt = binding.load()
    try:
        return connection.lookupByUUIDString(uuid_text)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def require(connection: Any, uuid_text: str) -> Any:
    """The domain; libvirt's own error if there is none."""
    return connection.lookupByUUIDString(uuid_text)


def state(connection: Any, uuid_text: str) -> tuple[int, int]:
    """The domain's state and the reason for it; (ABSENT, 0) if libvirt does not know it."""
    domain = find(connection, uuid_text)
    if domain is None:
        return ABSENT, 0
    present, reason = domain.state()
    return present, reason


class Seen(NamedTuple):
    """A domain as libvirt shows it: virDomainState, the reason for it, and whether it is defined as we defined it."""

    state: int
    reason: int
    as_defined: bool = True


def states(connection: Any) -> dict[str, Seen]:
    """Every domain by UUID; only those of this home's TDs are asked for more than their state."""
    libvirt = binding.load()
    found = connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE, 0)
    return {
        domain.UUIDString(): Seen(facts["state.state"], facts["state.reason"], _is_as_defined(domain))
        for domain, facts in found
    }


def _is_as_defined(domain: Any) -> bool:
    name = domain.name()
    if domain.UUIDString() != uuid_of(name):
        return True
    try:
        return _definition_file(name).read_text() == _definition(domain)
    except FileNotFoundError:
        return True


def _definition(domain: Any) -> str:
    """SHA-256 of what libvirt has made of the XML that it was given, in hex."""
    text: str = domain.XMLDesc(binding.load().VIR_DOMAIN_XML_INACTIVE)
    return hashlib.sha256(text.encode()).hexdigest()


def _definition_file(name: str) -> Path:
    return Place(name).directory / "domain.sha256"


def ending_while_away(present: int, reason: int) -> Ending:
    """How a domain ended while nobody watched."""
    if present == ABSENT:
        return Ending(reason="its domain is gone from libvirt")
    return ending_of_shutoff(reason)


def xml_of(connection: Any, spec: TdSpec, dialect: Dialect, launch: Launch, site: Site) -> str:
    """The domain's XML for this libvirt.

    Raises:
        PlatformMissing: libvirt has no word for something that the spec asks.
    """
    if reasons := list(domain_xml.refusals(spec, dialect)):
        raise PlatformMissing(f"TD {spec.name}: " + "; ".join(reasons), hint="start it under QEMU: --via qemu")
    emulator = site.program(spec.qemu)
    return domain_xml.build(spec, dialect, launch, emulator=emulator, identity=identity(connection, spec, site))


def identity(connection: Any, spec: TdSpec, site: Site) -> Identity:
    """The UUID, and the labels with which the system's libvirtd lets QEMU reach what is ours: overlay and sockets."""
    if not is_system(spec.connect):
        return Identity(uuid_of(spec.name))
    capabilities = ET.fromstring(connection.getCapabilities())  # noqa: S314 - from our own libvirtd
    models = {element.text for element in capabilities.findall("./host/secmodel/model")}
    user, group = site.user()
    labels: list[tuple[str, str | None]] = [("dac", f"+{user}:+{group}")]
    labels += [(model, None) for model in ("apparmor", "selinux") if model in models]
    return Identity(uuid_of(spec.name), tuple(labels))


def define(connection: Any, spec: TdSpec, xml: str) -> Any:
    """Define the domain, in place of its last definition; what libvirt makes of it is remembered."""
    domain = connection.defineXML(xml)
    # What needs a session cannot be started by libvirtd alone.
    domain.setAutostart(1 if spec.autostart and not is_bound(spec) else 0)
    write_atomic(_definition_file(spec.name), _definition(domain), mode=0o600)
    return domain


def undefine(connection: Any, spec: TdSpec) -> None:
    """Forget the domain, with what libvirt keeps beside it."""
    libvirt = binding.load()
    domain = find(connection, uuid_of(spec.name))
    if domain is not None and domain.isPersistent():
        flags = libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        domain.undefineFlags(flags | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)


def is_bound(spec: TdSpec) -> bool:
    """Whether the machine needs a session that this project serves: it ends with its supervisor."""
    from tdxstack.vm.choose import HARDWARE
    from tdxstack.vm.spec import VmType

    return spec.tpm or (spec.type is VmType.TD and spec.platform != HARDWARE)


def refuse_foreign_state(spec: TdSpec, domain: Any) -> None:
    """A bound machine cannot go on from a state that libvirt kept without the session's part.

    Raises:
        StateError: somebody saved it by ``virsh managedsave``.
    """
    if is_bound(spec) and domain.hasManagedSaveImage():
        raise StateError(
            f"TD {spec.name}", "start", "saved by virsh managedsave, without its platform's part", "a TD at rest",
            hint=f"virsh -c '{spec.connect}' managedsave-remove {spec.name}",
        )  # fmt: skip


def snapshot_xml(path: Path, *, disk: bool) -> str:
    """A request for a snapshot of the memory alone, to a file of ours."""
    snapshot = ET.Element("domainsnapshot")
    ET.SubElement(snapshot, "memory", snapshot="external", file=str(path))
    if disk:
        ET.SubElement(ET.SubElement(snapshot, "disks"), "disk", name="vda", snapshot="no")
    return ET.tostring(snapshot, encoding="unicode")
