"""scripts/setup-os.sh, against stand-ins for the package manager."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "setup-os.sh"
PACKAGES = SCRIPT.read_text().split('PACKAGES="')[1].split('"')[0].split()

pytestmark = pytest.mark.processes


class Machine:
    """A PATH with programs of our own in front: what a package manager would answer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program("dpkg-query", "".join(f"echo 'installed {name}'\n" for name in PACKAGES))
        self.program("qemu-system-x86_64", "echo 'QEMU emulator version 10.0.2 (Debian)'")
        self.program("qemu-img", "")
        self.program("id", "echo 0")
        self.program("apt-get", "echo called >>$TRACE; exit 0")
        self.program("apt-cache", "echo '  Candidate: 1:10.0.2+ds-2'")

    def program(self, name: str, body: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": f"{self.folder}:{os.environ['PATH']}", "TRACE": str(self.folder / "trace")}
        return subprocess.run(
            ["sh", str(SCRIPT), *arguments], capture_output=True, text=True, env=env, timeout=30, check=False
        )

    @property
    def asked_apt(self) -> bool:
        return (self.folder / "trace").exists()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_nothing_missing_does_nothing(machine: Machine) -> None:
    done = machine.run()
    assert (done.returncode, done.stderr, machine.asked_apt) == (0, "", False)


def test_what_only_tests_need_is_asked_for_with_tests_alone(machine: Machine) -> None:
    assert machine.run().returncode == 0
    assert not machine.asked_apt
    machine.run("--tests")
    assert machine.asked_apt


def test_old_qemu_is_not_enough(machine: Machine) -> None:
    machine.program("qemu-system-x86_64", "echo 'QEMU emulator version 7.2.18 (Debian)'")
    done = machine.run()
    assert machine.asked_apt
    assert "qemu-system-x86" in done.stderr


@pytest.mark.parametrize(
    ("talk", "said", "step"),
    [
        (
            "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 77 (dpkg)",
            "process 77 (dpkg) holds",
            "wait until it has ended",
        ),
        ("E: Temporary failure resolving 'mirror.example'", "cannot be reached", "check the network"),
        ("dpkg: error: No space left on device", "the disk is full", "free about"),
        ("E: dpkg was interrupted, you must manually run", "was interrupted", "dpkg --configure -a"),
        ("E: Unable to locate package swtpm", "do not have what is needed", "add your distribution"),
        ("something nobody has seen", "apt-get failed", "read the lines above"),
    ],
)
def test_failure_names_the_cause_and_the_next_step(machine: Machine, talk: str, said: str, step: str) -> None:
    machine.program("dpkg-query", "exit 1")
    machine.program("apt-get", f'case "$*" in *install*) echo "{talk}" >&2; exit 100 ;; esac')
    done = machine.run()
    assert done.returncode == 1
    assert said in done.stderr
    assert f"next: {step}" in done.stderr


def test_without_root_or_sudo(machine: Machine) -> None:
    machine.program("dpkg-query", "exit 1")
    machine.program("id", "echo 1000")
    machine.program("sudo", "echo sudo ran >&2; exit 9")
    done = machine.run()
    assert done.returncode == 9
    assert "sudo may ask" in done.stderr
    assert "next: if it was sudo that refused, run this as root" in done.stderr
