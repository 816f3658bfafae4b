"""IMA by its ``tcb`` policy, then by rules of one's own: what ran is in a list that RTMR2 proves, entry by entry."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tdxstack
from integration.conftest import Tdxctl, image_with
from tdxstack.wire.ima import ImaEntry, read_list

pytestmark = pytest.mark.integration
NAME = "watched"
PACKAGE = Path(tdxstack.__file__).parent
#: Rules of one's own: only what is made executable here.
RULES = "measure func=BPRM_CHECK mask=MAY_EXEC fowner=1234"
SCRIPT = "cp /usr/bin/true /root/{0} && chown 1234 /root/{0} && /root/{0}"


class Watched:
    """The TD, and what it was expected to be before it started."""

    def __init__(self, tdxctl: Tdxctl) -> None:
        self.tdxctl = tdxctl
        image = image_with(tdxctl, "direct")["name"]
        tdxctl.ok("td", "create", NAME, "--image", image, "--memory", "1G", "--ima", "tcb")
        self.predicted = tdxctl.json("measure", "predict", "--td", NAME, timeout=300)
        self.policy = tdxctl.ok("policy", "from-td", NAME)
        tdxctl.ok("td", "start", NAME, "--wait", timeout=400)

    def run(self, script: str) -> str:
        return self.tdxctl.ok("td", "exec", NAME, "--", "sh", "-c", script)

    def list(self, folder: Path) -> tuple[Path, tuple[ImaEntry, ...]]:
        """The list as it is now, in a file."""
        path = folder / "list"
        self.tdxctl.ok("guest", "ima", "--td", NAME, "--out", str(path))
        return path, read_list(path.read_bytes())


@pytest.fixture(scope="module")
def watched(tdxctl: Tdxctl) -> Iterator[Watched]:
    yield Watched(tdxctl)
    tdxctl.ok("td", "delete", NAME, "--yes")


def replayed(tdxctl: Tdxctl, path: Path) -> tuple[int, Any]:
    done = tdxctl("eventlog", "replay", "--td", NAME, "--ima", str(path), "--json")
    return done.returncode, json.loads(done.stdout)


def test_what_runs_is_in_the_list_and_in_rtmr2(watched: Watched, tmp_path: Path) -> None:
    path, entries = watched.list(tmp_path)
    assert {"boot_aggregate", "/usr/bin/sh", "/usr/lib/systemd/systemd"} <= {
        entry.name.replace("dash", "sh") for entry in entries
    }
    assert len(entries) > 100
    status, replay = replayed(watched.tdxctl, path)
    assert (status, replay["matches"], replay["problems"]) == (0, [True] * 4, [])


def test_ima_begins_as_predicted(watched: Watched, tmp_path: Path) -> None:
    """The boot aggregate, made of the TPM's PCRs 0..9, follows from firmware, kernel, command line and initrd."""
    _, (aggregate, *_) = watched.list(tmp_path)
    unlogged = [one for one in watched.predicted["events"] if not one["logged"]]
    assert [(one["name"], one["digest"]) for one in unlogged] == [
        ("IMA boot_aggregate", aggregate.extended().hex()),
        ("IMA entries", None),
    ]
    assert watched.predicted["rtmr"][2] is None


def test_an_entry_altered_far_down_is_found(watched: Watched, tmp_path: Path) -> None:
    path, entries = watched.list(tmp_path)
    lines = path.read_text().splitlines()
    name = entries[60].name
    lines[60] = lines[60].replace(name, name[:-1] + ("y" if name[-1] == "x" else "x"))
    path.write_text("\n".join(lines) + "\n")
    status, replay = replayed(watched.tdxctl, path)
    assert (status, replay["matches"]) == (3, [True, True, False, True])
    assert any("IMA entry 60" in one for one in replay["problems"])


def test_rules_of_ones_own(watched: Watched, tmp_path: Path) -> None:
    """The rules take the built-in policy's place: what they name is measured, the rest no longer."""
    watched.run(f"echo '{RULES}' > /sys/kernel/security/ima/policy")
    watched.run(SCRIPT.format("of-1234"))
    watched.run("cp /usr/bin/true /root/of-root && /root/of-root")
    path, entries = watched.list(tmp_path)
    names = [entry.name for entry in entries]
    assert "/root/of-1234" in names
    assert "/root/of-root" not in names
    status, replay = replayed(watched.tdxctl, path)
    assert (status, replay["matches"], replay["problems"]) == (0, [True] * 4, [])


def test_the_policy_made_before_the_boot_accepts_it(watched: Watched, tmp_path: Path) -> None:
    """RTMR2 is not pinned; the log's command line and initrd are, and the list leads from there to RTMR2."""
    assert "rtmr2" not in watched.policy
    assert "require_log = true" in watched.policy
    policy = tmp_path / "policy.toml"
    policy.write_text(watched.policy)
    good = watched.tdxctl.json("attest", NAME, "--policy", str(policy))
    assert good["verdict"] == "accepted", good["reasons"]
    policy.write_text(watched.policy.replace("ima_policy=tcb", "ima_policy=none"))
    assert watched.tdxctl("attest", NAME, "--policy", str(policy)).returncode == 3


@pytest.fixture(scope="module")
def papers_commands(watched: Watched, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The package in the guest, as pip would put it there; what runs one of its entry points."""
    bundle = tmp_path_factory.mktemp("package") / "tdxstack.zip"
    with zipfile.ZipFile(bundle, "w") as archive:
        for path in sorted(PACKAGE.rglob("*.py")):
            archive.write(path, path.relative_to(PACKAGE.parent))
    watched.tdxctl.ok("td", "copy", NAME, str(bundle), ":/root/tdxstack.zip")
    watched.run("python3 -m zipfile -e /root/tdxstack.zip /root/site")
    return "PYTHONPATH=/root/site python3 -c 'from tdxstack.cli import paper; paper.{}()'"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("tdx_eventlogs", ("kernel command line (LoadOptions)", "RTMR3")),
        ("tdx_tdreport", ("ab742989d480d040f178cf83c3ae0734",)),
        ("tdx_verify_rtmr", ("RTMR0", "IMA")),
    ],
)
def test_the_papers_commands_in_the_guest(
    watched: Watched, papers_commands: str, command: str, words: tuple[str, ...]
) -> None:
    """White paper, 4.2.4 and 4.2.5: also where IMA has extended RTMR2."""
    shown = watched.run(papers_commands.format(command))
    assert [word for word in words if word not in shown] == [], shown


def test_the_papers_commands_fail_where_something_differs(watched: Watched, papers_commands: str) -> None:
    """RTMR3 is extended by what is in no log."""
    register = "/sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384"
    watched.run(f"head -c 48 /dev/zero > {register}")
    script = papers_commands.format("tdx_verify_rtmr")
    assert watched.tdxctl("td", "exec", NAME, "--", "sh", "-c", script).returncode == 3
