"""A socket that is bound is not yet one that listens."""

from __future__ import annotations

import socket
from pathlib import Path

from tdxstack.system.sockets import is_listening


def test_bound_then_listening_then_closed(tmp_path: Path) -> None:
    path = tmp_path / "a socket"
    assert not is_listening(path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        assert path.exists()
        assert not is_listening(path)
        server.listen()
        assert is_listening(path)
        assert not is_listening(tmp_path / "a")
    assert not is_listening(path)
