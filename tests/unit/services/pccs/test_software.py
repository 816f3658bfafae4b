from __future__ import annotations

from pathlib import Path

import pytest

from tdxstack.cli.main import main
from tdxstack.services.pccs.software import SoftwareSource


def test_a_platform_made_anew_is_another_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was kept of the first one's collateral would not verify a quote of the second one's."""
    monkeypatch.setenv("TDXSTACK_HOME", str(tmp_path))
    names = []
    for _ in range(2):
        assert main(["platform", "create", "lab"]) == 0
        names.append(SoftwareSource.open("lab").name)
        assert SoftwareSource.open("lab").name == names[-1]
        assert main(["platform", "delete", "lab", "--yes"]) == 0
    assert names[0] != names[1]
    assert all(name.startswith("platform:lab (software") for name in names)
