"""Files into a running TD and out of it, over ssh."""

from __future__ import annotations

import posixpath
import secrets
import shlex
from dataclasses import dataclass
from pathlib import Path

from tdxstack.errors import ProcessFailed, ProcessTimeout, SystemFault, UsageError
from tdxstack.system.process import PIPE, ChildTimeout, run, spawn
from tdxstack.vm.keys import HOST, USER, ssh_argv, ssh_options, ssh_port
from tdxstack.vm.record import TdRecord

COPY_TIMEOUT = 3600.0
#: Where the kernel makes a file while it is read (proc(5), sysfs(5)): its size is not told before, and some of them
#: have no end for who asks for a piece beyond it, as scp does (``tpm0/binary_bios_measurements`` of Linux 6.12).
KERNEL_MOUNTS = ("/proc", "/sys")
GUEST_HOME = "/root"


def in_kernel(path: str) -> bool:
    """Whether a path in the guest is a file that the guest's kernel makes while it is read."""
    whole = posixpath.normpath(posixpath.join(GUEST_HOME, path))
    return any(posixpath.commonpath((whole, mount)) == mount for mount in KERNEL_MOUNTS)


@dataclass(frozen=True, slots=True)
class Copy:
    """One copy of a file or directory; exactly one of ``source`` and ``target`` is in the TD and starts with ':'.

    Raises:
        UsageError: both are in the TD, or none.
    """

    record: TdRecord
    source: str
    target: str

    def __post_init__(self) -> None:
        if [text.startswith(":") for text in self._places].count(True) != 1:
            raise UsageError("exactly one of FROM and TO is in the TD", hint="write a path in the TD as :/root/file")

    @property
    def reads_kernel(self) -> bool:
        return self.source.startswith(":") and in_kernel(self.source[1:])

    @property
    def _places(self) -> tuple[str, str]:
        return self.source, self.target

    def argv(self) -> list[str]:
        """The program that copies; where it ``reads_kernel``, its output is what ``target`` gets."""
        if self.reads_kernel:
            return ssh_argv(self.record, ["cat", "--", shlex.quote(self.source[1:])])
        places = [f"{USER}@{HOST}{text}" if text.startswith(":") else _local(text) for text in self._places]
        port = str(ssh_port(self.record))
        return ["scp", "-r", *ssh_options(self.record), "-P", port, "--", *places]

    def run(self) -> None:
        """Copy it.

        Raises:
            ProcessFailed, ProcessTimeout: as the program said; of a file that the kernel makes, nothing is left.
        """
        if self.reads_kernel:
            self._run_cat()
        else:
            run(self.argv(), timeout=COPY_TIMEOUT)

    def _run_cat(self) -> None:
        target = Path(self.target)
        if target.is_dir():
            target /= posixpath.basename(posixpath.normpath(self.source[1:]))
        unfinished = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
        try:
            with unfinished.open("xb") as stream:
                _cat(self.argv(), stream.fileno())
            unfinished.replace(target)
        except OSError as error:
            raise SystemFault(f"cannot write {target}: {error.strerror}", hint="name another file as TO") from error
        finally:
            unfinished.unlink(missing_ok=True)


def _local(path: str) -> str:
    """A path of this machine, for scp, which takes what has a colon before its first slash for another host."""
    return path if path.startswith("/") else f"./{path}"


def _cat(argv: list[str], output: int) -> None:
    child = spawn(argv, stdout=output, stderr=PIPE)
    try:
        status = child.wait(COPY_TIMEOUT)
    except ChildTimeout:
        raise ProcessTimeout(argv, COPY_TIMEOUT) from None
    finally:
        child.kill()
        child.wait()
    if status:
        said = child.stderr.read().decode(errors="replace") if child.stderr is not None else ""
        raise ProcessFailed(argv, status, said, hint="copy the files of /proc and /sys one by one")
