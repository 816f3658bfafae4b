"""KeyIDs and memory, from the misc controller, the MSR, and a machine that tells neither."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from tdxstack.platform import linux_host_capacity as capacity
from tdxstack.platform.linux_host_capacity import KeyIds
from tdxstack.platform.linux_host_files import HostFiles, HostReadError
from tdxstack.platform.linux_host_source import HostSource


class _Host:
    def __init__(self, root: Path, register: int | None = None) -> None:
        self.files = HostFiles(root)
        self._register = register

    def cpus(self) -> Sequence[int]:
        return (0, 1)

    def msr(self, cpu: int, index: int) -> int:
        if self._register is None or index != 0x87:
            raise HostReadError(f"/dev/cpu/{cpu}/msr", "no such register", missing=True)
        return self._register


def _host(tmp_path: Path, files: dict[str, str], register: int | None = None) -> HostSource:
    for name, text in files.items():
        (tmp_path / name[1:]).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name[1:]).write_text(text)
    return cast("HostSource", _Host(tmp_path, register))


@pytest.mark.parametrize(
    ("files", "register", "expected"),
    [
        ({capacity.CAPACITY: "sev 0\ntdx 31\n", capacity.CURRENT: "tdx 4\n"}, None, KeyIds(31, 4, "misc.capacity")),
        ({capacity.CAPACITY: "tdx 31\n"}, 64 << 32, KeyIds(31, 0, "misc.capacity")),
        ({capacity.CAPACITY: "sev 5\n"}, (32 << 32) | 31, KeyIds(31, None, "MSR 0x87")),
        ({}, 31, KeyIds(0, None, "MSR 0x87")),
        ({}, None, KeyIds()),
    ],
)
def test_keyids(tmp_path: Path, files: dict[str, str], register: int | None, expected: KeyIds) -> None:
    assert capacity.keyids(_host(tmp_path, files, register)) == expected


def test_memory(tmp_path: Path) -> None:
    text = "MemTotal:       2048 kB\nMemFree:  1 kB\nMemAvailable:    512 kB\n"
    assert capacity.memory(_host(tmp_path, {capacity.MEMINFO: text})) == capacity.Memory(2 << 20, 512 << 10)
