"""What QEMU says when it does not start, and what a person does about it; libvirt passes the same words on."""

from __future__ import annotations

from tdxstack.errors import TdxStackError
from tdxstack.vm.machine import LaunchFailed

#: Words of QEMU, and the next step; the first that fits counts.
ADVICE: tuple[tuple[str, str], ...] = (
    (
        "vhost-vsock: failed to open vhost device",
        "modprobe vhost_vsock (as root), or take the device away: tdxctl td set NAME --no-vsock",
    ),
    (
        "Could not access KVM kernel module",
        "join the group kvm (usermod -aG kvm USER, log in again), or tdxctl td set NAME --accelerator tcg",
    ),
    (
        "unable to map backing store for guest RAM",
        "too few free huge pages: sysctl vm.nr_hugepages",
    ),
    (
        "cannot set up guest memory",
        "tdxctl td capacity tells what memory is left; tdxctl td set NAME --memory 2G",
    ),
    (
        "vhost-vsock: unable to set guest cid",
        "another machine has that CID: tdxctl td set NAME --unset vsock-cid",
    ),
    ("vm-type TDX not supported by KVM", "this host does not offer TDX: tdxctl host check"),
    ("KVM_TDX_INIT_VM failed", "perhaps all TDX KeyIDs are in use: tdxctl td capacity; tdxctl host check"),
    (
        "Parameter 'qom-type' does not accept value 'tdx-guest'",
        "this QEMU has no such object, perhaps replaced by an update: tdxctl host check",
    ),
    ("TDVF contains unsupported section type", "that firmware is for another VMM: tdxctl firmware show FILE"),
    ("bridge helper failed", "let QEMU use the bridge: a line `allow BRIDGE` in /etc/qemu/bridge.conf"),
    ("is not a valid device model name", "qemu-system-x86_64 -device help; tdxctl td set NAME --unset devices"),
    ("no iommu_group found", "turn the IOMMU on (intel_iommu=on) and bind the device to vfio-pci"),
)


def advised(error: TdxStackError) -> TdxStackError:
    """The same failure with the next step, where it has QEMU's words and they tell it."""
    if not isinstance(error, LaunchFailed):
        return error
    hint = next((hint for words, hint in ADVICE if words in error.log), error.hint)
    return LaunchFailed(error.message, error.log, hint=hint)
