"""gdb's command line, and where its symbols come from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tdxstack.errors import SystemFault, UsageError
from tdxstack.vm import debugger
from tdxstack.vm.record import TdRecord
from tdxstack.vm.spec import Boot, TdSpec

RECORD = TdRecord(spec=TdSpec(name="demo", kernel=Path("/no/vmlinuz")))


def test_command_line() -> None:
    argv = debugger.gdb_argv(Path("/run/gdb.sock"), Path("/a b/vmlinux"), breakpoint="start_kernel", commands=["c"])
    assert argv[:2] == ["gdb", "-q"]
    steps = argv[3::2]
    assert 'file "/a b/vmlinux"' in steps
    assert steps[-3:] == ["target remote /run/gdb.sock", "hbreak start_kernel", "c"]
    bare = debugger.gdb_argv(Path("/s"), Path("/v"), breakpoint=None, batch=True)
    assert "-batch" in bare
    assert not any(word.startswith("hbreak") for word in bare)


def test_what_is_missing() -> None:
    with pytest.raises(SystemFault, match="no gdb stub now") as caught:
        debugger.gdb_socket(RECORD)
    assert caught.value.hint == "tdxctl td start demo --debug"
    with pytest.raises(UsageError, match="no file"):
        debugger.symbols_for(RECORD, Path("/no/vmlinux"), None)
    on_disk = replace(RECORD, spec=replace(RECORD.spec, kernel=None, boot=Boot.GRUB))
    with pytest.raises(UsageError, match="from its disk"):
        debugger.symbols_for(on_disk, None, None)


def test_a_file_that_is_no_kernel(tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(b"no kernel")
    with pytest.raises(SystemFault, match="no symbols") as caught:
        debugger.symbols_for(RECORD, None, kernel)
    assert "--symbols" in (caught.value.hint or "")
