"""One tree of exceptions. Only the command line turns them into text and an exit code.

::

    TdxStackError
    ├── UsageError                the caller asked for something that makes no sense          (exit 2)
    ├── WireError                 bytes that are not the format they should be                (exit 1)
    ├── EvidenceRejected          evidence was read and judged, and it does not hold          (exit 3)
    ├── CollateralError           collateral is missing, expired or cannot be fetched         (exit 5)
    │   ├── CollateralAbsent      the source was asked and does not have it
    │   └── CollateralUnreachable the source could not be asked, or answered with a fault
    ├── PlatformMissing           this machine, QEMU or platform cannot do it                 (exit 4)
    ├── StateError                the operation is not allowed in the present state           (exit 1)
    └── SystemFault               the operating system refused: processes, files, locks       (exit 1)
        ├── ProgramMissing        a program is not installed                                  (exit 4)
        ├── ProcessFailed         a program ended with a non-zero status
        ├── ProcessTimeout        a program did not end in time
        ├── NetworkFault          a download failed                                         (exit 5)
        └── LockHeld              somebody else holds the lock

Leaves carry their facts as attributes, and a hint: the next command to run or the next thing to look at.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of ``tdxctl``. What cannot be verified is never 0."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REJECTED = 3
    UNSUPPORTED = 4
    COLLATERAL = 5
    INTERRUPTED = 130


class TdxStackError(Exception):
    """Root of the tree. ``hint`` says what to do next, or is None."""

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(TdxStackError):
    """The arguments contradict each other or name something that does not exist."""

    exit_code = ExitCode.USAGE


class WireError(TdxStackError):
    """Bytes that are not the structure they were read as.

    Args:
        structure: the structure's name in its specification, e.g. ``TDREPORT_STRUCT``.
        field: the field at fault, by the specification's name.
        offset: where it is, in bytes from the start of the data that was handed in.
        reason: what is wrong with it.
    """

    def __init__(self, structure: str, field: str, offset: int, reason: str) -> None:
        super().__init__(f"{structure}: {field} at offset {offset}: {reason}")
        self.structure = structure
        self.field = field
        self.offset = offset
        self.reason = reason


class EvidenceRejected(TdxStackError):
    """Evidence that was judged and does not hold. ``step`` names the check that failed."""

    exit_code = ExitCode.REJECTED

    def __init__(self, step: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.step = step


class CollateralError(TdxStackError):
    """Collateral that is missing, expired or out of reach. ``item`` names it."""

    exit_code = ExitCode.COLLATERAL

    def __init__(self, item: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.item = item


class CollateralAbsent(CollateralError):
    """The source was asked and does not have it. ``status`` is the HTTP status, or None."""

    def __init__(self, item: str, message: str, *, status: int | None = None, hint: str | None = None) -> None:
        super().__init__(item, message, hint=hint)
        self.status = status


class CollateralUnreachable(CollateralError):
    """The source could not be asked, or answered with a fault of its own. ``status`` is the HTTP status, or None."""

    def __init__(self, item: str, message: str, *, status: int | None = None, hint: str | None = None) -> None:
        super().__init__(item, message, hint=hint)
        self.status = status


class PlatformMissing(TdxStackError):
    """This machine, this QEMU or this platform cannot do what was asked."""

    exit_code = ExitCode.UNSUPPORTED


class StateError(TdxStackError):
    """An operation that the present state does not allow.

    Args:
        subject: what it is about, e.g. ``TD demo``.
        operation: what was asked.
        state: the state it is in.
        needed: the state or states the operation needs.
    """

    def __init__(self, subject: str, operation: str, state: str, needed: str, *, hint: str | None = None) -> None:
        super().__init__(f"{subject}: cannot {operation} while {state} (needs {needed})", hint=hint)
        self.subject = subject
        self.operation = operation
        self.state = state
        self.needed = needed


class SystemFault(TdxStackError):
    """The operating system refused."""


class ProgramMissing(SystemFault):
    """A program that is not installed; ``package`` is the Debian package that has it, where known."""

    exit_code = ExitCode.UNSUPPORTED

    def __init__(self, program: str, *, package: str | None = None) -> None:
        hint = f"apt-get install {package}" if package else "make setup"
        super().__init__(f"{program}: program not found", hint=hint)
        self.program = program
        self.package = package


class ProcessFailed(SystemFault):
    """A program that ended with a non-zero status (negative: the signal that ended it)."""

    def __init__(self, argv: Sequence[str], returncode: int, output: str, *, hint: str | None = None) -> None:
        tail = "\n".join(output.strip().splitlines()[-8:])
        ended = f"signal {-returncode}" if returncode < 0 else f"status {returncode}"
        super().__init__(f"{argv[0]} ended with {ended}" + (f":\n{tail}" if tail else ""), hint=hint)
        self.argv = tuple(argv)
        self.returncode = returncode
        self.output = output


class ProcessTimeout(SystemFault):
    """A program that did not end within ``seconds``."""

    def __init__(self, argv: Sequence[str], seconds: float, *, hint: str | None = None) -> None:
        super().__init__(f"{argv[0]} did not end within {seconds:g} s", hint=hint)
        self.argv = tuple(argv)
        self.seconds = seconds


class NetworkFault(SystemFault):
    """Something had to be downloaded and could not be."""

    exit_code = ExitCode.COLLATERAL


class LockHeld(SystemFault):
    """Another process holds the lock on ``path``."""

    def __init__(self, path: str, *, hint: str | None = None) -> None:
        super().__init__(f"{path}: in use by another process", hint=hint)
        self.path = path
