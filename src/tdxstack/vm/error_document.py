"""Errors as JSON: how they go over a socket or a pipe, and come out as the same error."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tdxstack.errors import ExitCode, TdxStackError


class RemoteError(TdxStackError):
    """An error that the supervisor answered with; ``kind`` is its class there, the exit code is the same."""

    def __init__(self, kind: str, message: str, *, hint: str | None, exit_code: ExitCode) -> None:
        super().__init__(message, hint=hint)
        self.kind = kind
        self.exit_code = exit_code


#: What hints of parts that do not know which TD they serve have in place of its name.
PLACEHOLDER = re.compile(r"(?<![-\w])NAME(?![-\w])")


def error_document(error: TdxStackError, name: str) -> dict[str, Any]:
    """An error of the TD ``name`` as it goes over a socket or a pipe."""
    return {
        "type": getattr(error, "kind", type(error).__name__),
        "message": error.message,
        "hint": error.hint and PLACEHOLDER.sub(name, error.hint),
        "exit_code": int(error.exit_code),
    }


def error_from_document(values: Mapping[str, Any]) -> RemoteError:
    """The error that ``error_document`` wrote."""
    try:
        code = ExitCode(values.get("exit_code", ExitCode.FAILED))
    except ValueError:
        code = ExitCode.FAILED
    kind, message = str(values.get("type", "error")), str(values.get("message", "no message"))
    return RemoteError(kind, message, hint=values.get("hint"), exit_code=code)
