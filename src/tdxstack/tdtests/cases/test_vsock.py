"""vsock between a TD and its host, in both directions."""

from __future__ import annotations

import socket

import pytest

from tdxstack.cloud.vmguest import VMGuestFactory
from tdxstack.cloud.vmparam import VM_TYPE_TD
from tdxstack.tdtests.environment import Environment
from tdxstack.tdtests.guest_shell import answer

pytestmark = [pytest.mark.category("vsock"), pytest.mark.requires("vhost-vsock")]
TIMEOUT = 120.0
GUEST_PORT = 5000


def test_vsock(env: Environment, vm_factory: VMGuestFactory) -> None:
    guest = vm_factory.new_vm(VM_TYPE_TD, env.size, auto_start=True, vsock=True, platform=env.platform_name)
    guest.wait_for_ssh_ready()
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as listener:
        listener.settimeout(TIMEOUT)
        listener.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
        listener.listen()
        port = listener.getsockname()[1]
        program = f"import socket as s; c=s.socket(s.AF_VSOCK); c.connect((2,{port})); c.sendall(b'to host')"
        answer(guest, f'python3 -c "{program}"')
        connection, (cid, _) = listener.accept()
        with connection:
            assert connection.recv(64) == b"to host"
        assert cid == guest.vmm.record().run.vsock_cid
    program = (
        f"import socket as s; l=s.socket(s.AF_VSOCK); l.bind((-1,{GUEST_PORT})); l.listen(); print('up',flush=True); "
        "c,_=l.accept(); c.sendall(c.recv(64)[::-1])"
    )
    guest.ssh_run(f'nohup python3 -c "{program}" >/run/vsock.log 2>&1 & sleep 5; cat /run/vsock.log')
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as client:
        client.settimeout(TIMEOUT)
        client.connect((cid, GUEST_PORT))
        client.sendall(b"to guest")
        assert client.recv(64) == b"tseug ot"
