"""Ports, vsock CIDs and MAC addresses that nobody else has: recorded under one lock, and tried by binding."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

from tdxstack.errors import PlatformMissing, SystemFault, UsageError
from tdxstack.platform.linux_vsock import cid_is_free
from tdxstack.system import paths
from tdxstack.system.files import locked
from tdxstack.vm import record as records
from tdxstack.vm.network import PortForward, is_user
from tdxstack.vm.observation import observe
from tdxstack.vm.ports import HOST, can_bind
from tdxstack.vm.record import Run, TdRecord
from tdxstack.vm.site import PortIsFree
from tdxstack.vm.sites import site_of
from tdxstack.vm.spec import TdSpec
from tdxstack.vm.spec_rules import FIRST_CID
from tdxstack.vm.state import ACTIVE

FIRST_PORT, LAST_PORT = 10022, 19999
#: QEMU's own prefix for locally made addresses.
MAC_PREFIX = "52:54:00"


@contextmanager
def allocating() -> Iterator[None]:
    """Hold the lock under which numbers are chosen and recorded."""
    with locked(paths.runtime() / "allocation.lock"):
        yield


def mac_address(name: str, taken: frozenset[str] = frozenset()) -> str:
    """A MAC address made from the home and the name, other than those ``taken``."""
    attempt = 0
    while True:
        seed = f"{paths.home()}\0{name}\0{attempt}"
        tail = hashlib.sha256(seed.encode()).digest()[:3]
        address = MAC_PREFIX + "".join(f":{byte:02x}" for byte in tail)
        if address not in taken:
            return address
        attempt += 1


def fill(record: TdRecord, run: Run, *, preview: bool = False) -> Run:
    """``run`` with ports, CID and MAC for ``record``. Call it within ``allocating`` and save the outcome there.

    With ``preview`` the numbers that the specification names may be in use now: nothing starts.

    Raises:
        SystemFault: a port or CID that the specification names is in use, or no port is free.
    """
    spec = record.spec
    everyone = list(_others(record.name))
    site = site_of(spec)
    others = [other for other in everyone if other.state in ACTIVE and _key(other) == site.key]
    taken = {port for other in others for port in _ports(other.run)}
    free = site.free_ports() if is_user(spec.network) else can_bind
    named = _previewed_port if preview else _named_port
    addresses = frozenset(other.run.mac for other in everyone)
    mac = spec.mac or record.run.mac or mac_address(spec.name, addresses)
    run = replace(run, mac=mac, ssh_port=None, ports=())
    if is_user(spec.network):
        ssh_port = (
            named(spec, PortForward("tcp", spec.ssh_port, 22), taken, free)
            if spec.ssh_port
            else _free_port("tcp", taken, free, prefer=record.run.ssh_port)
        )
        taken.add(ssh_port)
        forwards = []
        for one in spec.ports:
            host = named(spec, one, taken, free) if one.host else _free_port(one.protocol, taken, free)
            taken.add(host)
            forwards.append(str(PortForward(one.protocol, host, one.guest)))
        run = replace(run, ssh_port=ssh_port, ports=tuple(forwards))
    if spec.vsock or spec.quote.startswith("vsock"):
        if preview and spec.vsock_cid:
            return replace(run, vsock_cid=spec.vsock_cid)
        cids = {other.run.vsock_cid for other in others}
        run = replace(run, vsock_cid=_cid(spec, cids, cid_is_free if site.key == "" else _unasked))
    return run


def _unasked(_cid: int) -> bool:
    """Of another host's CIDs only those of our TDs are known."""
    return True


def _others(name: str) -> Iterator[TdRecord]:
    known: dict[str, Any] = {}
    for other in records.names():
        if other != name:
            try:
                yield observe(other, known)
            except (SystemFault, UsageError):
                continue


def _ports(run: Run) -> Iterator[int]:
    if run.ssh_port:
        yield run.ssh_port
    for text in run.ports:
        yield int(text.split(":")[1])


def _key(record: TdRecord) -> str | None:
    """The site of a TD by its key; None for one that this version would refuse."""
    try:
        return site_of(record.spec).key
    except PlatformMissing:
        return None


def _named_port(spec: TdSpec, forward: PortForward, taken: set[int], free: PortIsFree) -> int:
    """The host port that the specification names, if nobody else has it."""
    if forward.host in taken or not free(forward.host, forward.protocol):
        raise SystemFault(
            f"TD {spec.name}: {forward.protocol} port {forward.host} of {HOST} is in use",
            hint=f"`ss -lntup 'sport = :{forward.host}'` shows who has it; 0 instead of a number has one chosen",
        )
    return forward.host


def _previewed_port(_spec: TdSpec, forward: PortForward, _taken: set[int], _free: PortIsFree) -> int:
    return forward.host


def _free_port(protocol: Literal["tcp", "udp"], taken: set[int], free: PortIsFree, prefer: int | None = None) -> int:
    for port in ([prefer] if prefer else []) + list(range(FIRST_PORT, LAST_PORT + 1)):
        if port not in taken and free(port, protocol):
            return port
    raise SystemFault(f"no free port from {FIRST_PORT} to {LAST_PORT}", hint="stop a TD: tdxctl td list")


def _cid(spec: TdSpec, taken: set[int | None], free: Callable[[int], bool]) -> int:
    if spec.vsock_cid:
        if spec.vsock_cid in taken or not free(spec.vsock_cid):
            raise SystemFault(
                f"TD {spec.name}: vsock CID {spec.vsock_cid} is in use", hint="set vsock_cid = 0 to have one chosen"
            )
        return spec.vsock_cid
    return free_cid(taken, free)


def free_cid(taken: set[int | None] | None = None, free: Callable[[int], bool] = cid_is_free) -> int:
    """The lowest vsock CID that no TD of this home has, and as the kernel says no other machine of this host."""
    if taken is None:
        taken = {other.run.vsock_cid for other in _others("") if other.state in ACTIVE}
    cid = FIRST_CID
    while cid in taken or not free(cid):
        cid += 1
    return cid
