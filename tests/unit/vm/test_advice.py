from __future__ import annotations

import pytest

from tdxstack.errors import SystemFault
from tdxstack.vm.advice import ADVICE, advised
from tdxstack.vm.machine import LaunchFailed

GENERAL = "the log of QEMU: tdxctl td logs NAME --qemu"


@pytest.mark.parametrize(
    ("said", "step"),
    [
        ("-device vhost-vsock-pci,guest-cid=3: vhost-vsock: failed to open vhost device: No such file or directory",
         "modprobe vhost_vsock"),
        ("cannot set up guest memory 'ram0': Cannot allocate memory", "--memory"),
        ("unable to map backing store for guest RAM: Cannot allocate memory", "nr_hugepages"),
        ("-netdev bridge,id=n,br=virbr9: bridge helper failed", "/etc/qemu/bridge.conf"),
        ("-accel kvm: vm-type TDX not supported by KVM", "tdxctl host check"),
        ("TDX ioctl KVM_TDX_INIT_VM failed, hw_errors: 0x0: No space left on device", "tdxctl td capacity"),
        ("something else", GENERAL),
    ],
)  # fmt: skip
def test_the_next_step(said: str, step: str) -> None:
    error = advised(LaunchFailed(f"QEMU ended with status 1: {said}", said, hint=GENERAL))
    assert step in (error.hint or "")
    assert said in error.message


def test_other_errors_keep_their_own() -> None:
    error = SystemFault(ADVICE[0][0], hint="its own")
    assert advised(error) is error
