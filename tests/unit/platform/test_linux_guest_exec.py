"""Commands that the guest runs for its host, and those that it does not."""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from tdxstack.errors import PlatformMissing, SystemFault, UsageError
from tdxstack.platform import linux_guest_exec

pytestmark = pytest.mark.processes


def _run(*argv: str, timeout: float = 10.0, **options: Any) -> dict[str, Any]:
    return linux_guest_exec.run({"argv": list(argv), "timeout": timeout}, **{"protected": False, **options})


def test_output_and_status() -> None:
    answer = _run("sh", "-c", "echo out; echo err >&2; exit 3")
    assert (answer["status"], answer["truncated"]) == (3, False)
    assert (b64decode(answer["stdout"]), b64decode(answer["stderr"])) == (b"out\n", b"err\n")
    assert _run("sh", "-c", "kill -9 $$")["status"] == -9


def test_much_output_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux_guest_exec, "MAX_OUTPUT", 1000)
    answer = _run("head", "-c", "300000", "/dev/zero")
    assert (len(b64decode(answer["stdout"])), answer["truncated"], answer["status"]) == (1000, True, 0)


def test_what_does_not_end_is_ended() -> None:
    with pytest.raises(SystemFault, match="did not end in time"):
        _run("sh", "-c", "sleep 60 & wait", timeout=0.2)
    with pytest.raises(SystemFault, match="did not end in time"):
        _run("sh", "-c", "exec >&- 2>&-; sleep 60", timeout=0.2)


def test_a_protected_guest_asks_its_owner(tmp_path: Path) -> None:
    permission = tmp_path / "agent-exec"
    with pytest.raises(PlatformMissing, match="no commands for its host"):
        _run("true", protected=True, permission=permission)
    permission.touch()
    assert _run("true", protected=True, permission=permission)["status"] == 0


def test_no_such_program() -> None:
    with pytest.raises(SystemFault, match="No such file"):
        _run("no-such-program")


@pytest.mark.parametrize(
    "params", [{}, {"argv": "ls"}, {"argv": []}, {"argv": ["a\0"]}, {"argv": ["a"], "timeout": -1}]
)
def test_bad_requests(params: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        linux_guest_exec.run(params, protected=False)
