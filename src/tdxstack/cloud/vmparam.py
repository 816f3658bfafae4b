"""Constants of machines, their size (``VMSpec``) and the kernel command line (``KernelCmdline``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tdxstack.errors import UsageError

VM_TYPE_TD = "td"
VM_TYPE_EFI = "efi"
VM_TYPE_LEGACY = "legacy"
VM_TYPES = (VM_TYPE_TD, VM_TYPE_EFI, VM_TYPE_LEGACY)

BOOT_TYPE_DIRECT = "direct"
BOOT_TYPE_GRUB = "grub"
BOOT_TYPE_UKI = "uki"

VM_STATE_RUNNING = "running"
VM_STATE_PAUSE = "paused"
VM_STATE_SHUTDOWN = "shutdown"
VM_STATE_SHUTDOWN_IN_PROGRESS = "shutting down"

SHUTDOWN_DEFAULT = "default"
SHUTDOWN_ACPI = "acpi"
SHUTDOWN_AGENT = "agent"

HUGEPAGES_1G = "1G"
HUGEPAGES_2M = "2M"

#: Seconds that a machine may take until its sshd answers; see ``VMGuest.wait_for_ssh_ready``.
BOOT_TIMEOUT = 180
#: Seconds that a change of state may take.
STATE_TIMEOUT = 20

#: Command line of a kernel that is handed over, without its root file system.
DEFAULT_CMDLINE = "rw selinux=0 console=hvc0 earlyprintk console=tty0"
DEFAULT_ROOT = "/dev/vda1"

KIB_PER_GIB = 1 << 20
KIB_PER_MIB = 1 << 10
#: Memory of a vCPU where none is given: 4 GiB.
KIB_PER_VCPU = 4 * KIB_PER_GIB


@dataclass(frozen=True, slots=True)
class VMSpec:
    """The size of a machine. ``memsize`` is in KiB, rounded down to MiB; without it 4 GiB for each vCPU.

    A count below one is taken as one: four tenths of a host of two CPUs, as the white paper computes ``cores``, is 0.
    """

    sockets: int = 1
    cores: int = 4
    threads: int = 1
    memsize: int | None = None

    @property
    def vcpus(self) -> int:
        """Virtual CPUs in all."""
        return max(1, self.sockets) * max(1, self.cores) * max(1, self.threads)

    @property
    def memory_bytes(self) -> int:
        """Memory in bytes, a whole number of MiB."""
        kib = self.memsize if self.memsize is not None else self.vcpus * KIB_PER_VCPU
        return kib // KIB_PER_MIB << 20

    def settings(self) -> dict[str, int]:
        """The size as settings of a ``TdSpec``."""
        sockets, threads = max(1, self.sockets), max(1, self.threads)
        return {"vcpus": self.vcpus, "sockets": sockets, "threads": threads, "memory": self.memory_bytes}

    def is_numa(self) -> bool:
        """Whether there is more than one socket."""
        return self.sockets > 1

    @classmethod
    def model_base(cls) -> VMSpec:
        """4 vCPUs, 16 GiB."""
        return cls(sockets=1, cores=4, threads=1, memsize=16 * KIB_PER_GIB)

    @classmethod
    def model_large(cls) -> VMSpec:
        """8 vCPUs, 32 GiB."""
        return cls(sockets=1, cores=8, threads=1, memsize=32 * KIB_PER_GIB)

    @classmethod
    def model_numa(cls) -> VMSpec:
        """2 sockets of 4 vCPUs, 32 GiB."""
        return cls(sockets=2, cores=4, threads=1, memsize=32 * KIB_PER_GIB)


class KernelCmdline:
    """A kernel command line, field by field: ``key`` or ``key=value``, in order; a key may stand there twice.

    ``cmdline + "quiet"`` and ``cmdline += "quiet"`` add fields. Whole fields are compared, never parts of them.
    """

    def __init__(self, default: str = DEFAULT_CMDLINE) -> None:
        self._fields = _split(default)

    def __str__(self) -> str:
        return " ".join(self._fields)

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._fields))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KernelCmdline) and self._fields == other._fields

    def __hash__(self) -> int:
        return hash(tuple(self._fields))

    def __add__(self, fields: str) -> KernelCmdline:
        total = KernelCmdline(str(self))
        total.add_field_from_string(fields)
        return total

    __iadd__ = __add__

    @property
    def field_keys(self) -> list[str]:
        """The keys, in order."""
        return [_key(field) for field in self._fields]

    def get_value(self, key: str) -> str | None:
        """The value of the last field with this key; ``""`` for a bare key, None where there is none."""
        found = [field for field in self._fields if _key(field) == key]
        return found[-1].partition("=")[2] if found else None

    def is_field_exists(self, field: str) -> bool:
        """Whether exactly this field stands there."""
        return field in self._fields

    def is_field_key_exists(self, key: str) -> bool:
        """Whether a field with this key stands there."""
        return key in self.field_keys

    def add_field(self, key: str, value: str | None = None) -> None:
        """Append a field unless exactly this one stands there."""
        field = key if value is None else f"{key}={value}"
        if len(_split(field)) != 1:
            raise UsageError(f"{field!r} is not one field of a command line", hint="quote a value with spaces in it")
        if field not in self._fields:
            self._fields.append(field)

    def add_field_from_string(self, fields: str) -> None:
        """Append each field of a string unless it stands there."""
        for field in _split(fields):
            if field not in self._fields:
                self._fields.append(field)

    def remove_fields(self, key: str) -> None:
        """Remove every field with this key."""
        self._fields = [field for field in self._fields if _key(field) != key]

    def remove_field_from_string(self, fields: str) -> None:
        """Remove exactly these fields."""
        unwanted = set(_split(fields))
        self._fields = [field for field in self._fields if field not in unwanted]


def _key(field: str) -> str:
    return field.partition("=")[0]


def _split(text: str) -> list[str]:
    """Fields at white space outside double quotes, as the kernel splits (lib/cmdline.c, next_arg)."""
    fields, field, quoted = [], "", False
    for letter in text:
        if letter == '"':
            quoted = not quoted
        if letter.isspace() and not quoted:
            if field:
                fields.append(field)
            field = ""
        else:
            field += letter
    if quoted:
        raise UsageError(f"{text!r}: a quote is not closed", hint='write key="a value"')
    return [*fields, field] if field else fields
