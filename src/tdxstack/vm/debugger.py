"""gdb on a TD that was started with ``debug``: the paper's off-TD debugging, over a Unix socket instead of a port.

Reference: QEMU, docs/system/gdb.rst. The TD stands still before its first instruction until gdb lets it go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from tdxstack.errors import PlatformMissing, SystemFault, UsageError
from tdxstack.vm.kernel_image import kernel_of, symbol_file
from tdxstack.vm.record import TdRecord
from tdxstack.vm.site import is_far

FIRST_BREAKPOINT = "start_kernel"
#: A TD on hardware answers slowly: each access is a call of the TDX module.
REMOTE_TIMEOUT = 360


def gdb_socket(record: TdRecord) -> Path:
    """The socket of the TD's gdb stub.

    Raises:
        SystemFault: it has none now.
    """
    socket = record.place.run_dir / "gdb.sock"
    if not socket.exists():
        raise SystemFault(f"TD {record.name} has no gdb stub now", hint=f"tdxctl td start {record.name} --debug")
    return socket


def symbols_for(record: TdRecord, symbols: Path | None, kernel: Path | None) -> Path:
    """The file with the kernel's symbols: the given one, or one made of the kernel that boots.

    Raises:
        UsageError: no such file, or a kernel that is not known.
        PlatformMissing: the kernel lies on another host.
        SystemFault: the kernel carries no symbols.
    """
    if symbols is not None:
        if not symbols.is_file():
            raise UsageError(f"no file {symbols}", hint="leave --symbols out to take the kernel's own symbols")
        return symbols.absolute()
    if kernel is None and is_far(record.spec):
        host = urlsplit(record.spec.connect).hostname
        raise PlatformMissing(
            f"TD {record.name}: its kernel lies on {host}, and gdb runs here",
            hint=f"scp {host}:{record.spec.kernel or 'KERNEL'} . and give it by --kernel, or a vmlinux by --symbols",
        )
    return symbol_file(kernel or kernel_of(record.spec))


def gdb_argv(
    socket: Path, symbols: Path, *, breakpoint: str | None, commands: Sequence[str] = (), batch: bool = False
) -> list[str]:
    """gdb's command line: symbols, the stub, a hardware breakpoint, then ``commands``.

    Software breakpoints only hold once the kernel is in memory; the first one is a hardware one therefore.
    """
    steps = [
        "set confirm off",
        "set pagination off",
        f"add-auto-load-safe-path {symbols.parent}",
        f"file {_quoted(symbols)}",
        "set architecture i386:x86-64",
        f"set remotetimeout {REMOTE_TIMEOUT}",
        f"target remote {socket}",
        *([f"hbreak {breakpoint}"] if breakpoint else []),
        *commands,
    ]
    words = [word for step in steps for word in ("-ex", step)]
    return ["gdb", "-q", *(["-batch"] if batch else []), *words]


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'
