"""The pytest plugin: fixtures for cases, skipping by requirement, and the run's results.

Cases say what they need: ``@pytest.mark.requires("tdx-hardware")`` with names of ``environment.REQUIREMENTS``, and
``@pytest.mark.category("lifecycle")`` for their module.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tdxstack.cloud.vmguest import VMGuest, VMGuestFactory
from tdxstack.cloud.vmparam import VM_TYPE_TD
from tdxstack.errors import TdxStackError
from tdxstack.system.process import run as run_program
from tdxstack.tdtests.environment import REQUIREMENTS, Environment
from tdxstack.tdtests.machines import MachineMaker, Machines
from tdxstack.tdtests.results import CaseResult, Report

KEYGEN_TIMEOUT = 60.0
#: Fixtures that boot machines.
BOOTING = frozenset({"td", "fresh", "vm_factory"})
_FAILED = pytest.StashKey[bool]()


class StackTests:
    """One run: its environment, its machines, its report."""

    def __init__(self, environment: Environment, report: Report, *, keep_vm: bool = False) -> None:
        self.environment = environment
        self.report = report
        self.machines = Machines(environment, keep=keep_vm)
        self._keep = keep_vm
        #: Why no test could run.
        self.fault: TdxStackError | None = None

    # -- what pytest calls --------------------------------------------------------------------------------------

    def pytest_configure(self, config: pytest.Config) -> None:
        config.addinivalue_line("markers", "requires(*names): what must be there, or the test is skipped")
        config.addinivalue_line("markers", "category(name): a category of the white paper's table 6, or an area")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            for name in requirements(item):
                if reason := self.environment.missing(name):
                    item.add_marker(pytest.mark.skip(reason=reason))
                    break

    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Have what the guests boot before the first test; without it there is one fault, and nothing runs."""
        if not session.config.option.collectonly and any(map(_boots, session.items)):
            try:
                self.environment.prepare()
            except TdxStackError as fault:
                self.fault = fault
                return True
        return None

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.report.began(nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.when == "call" and report.failed:
            item.stash[_FAILED] = True
        self.report.add(_result(item, report))
        return report

    def pytest_unconfigure(self) -> None:
        self.machines.close()

    # -- fixtures -----------------------------------------------------------------------------------------------

    @pytest.fixture(scope="session")
    def env(self) -> Environment:
        """What the tests run on."""
        return self.environment

    @pytest.fixture
    def td(self, request: pytest.FixtureRequest) -> Iterator[VMGuest]:
        """A TD that has booted; the test only looks at it, and leaves it running."""
        guest = self.machines.booted(VM_TYPE_TD)
        yield guest
        failed = _failed(request)
        if failed or not self.machines.still_clean(guest):
            self.machines.used(guest, failed=failed)

    @pytest.fixture
    def fresh(self, request: pytest.FixtureRequest) -> Iterator[MachineMaker]:
        """Makes a machine of a type that has just booted; the test may do anything with it."""
        made: list[VMGuest] = []

        def make(vmtype: str) -> VMGuest:
            made.append(self.machines.booted(vmtype))
            return made[-1]

        yield make
        for guest in made:
            self.machines.used(guest, failed=_failed(request))

    @pytest.fixture
    def vm_factory(self, request: pytest.FixtureRequest) -> Iterator[VMGuestFactory]:
        """A factory of the test's own; what it makes goes with the test."""
        factory = self.machines.factory()
        yield factory
        if self._keep and _failed(request):
            self.machines.kept += [guest.name for guest in factory.vms]
        else:
            factory.removeall()

    @pytest.fixture(scope="session")
    def vm_ssh_key(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A private key made for this run."""
        key = tmp_path_factory.mktemp("ssh") / "vm_ssh_test_key"
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)]
        run_program(argv, timeout=KEYGEN_TIMEOUT)
        return key

    @pytest.fixture(scope="session")
    def vm_ssh_pubkey(self, vm_ssh_key: Path) -> Path:
        """Its public key."""
        return vm_ssh_key.with_suffix(".pub")


def requirements(item: pytest.Item) -> tuple[str, ...]:
    """What a test states that it requires.

    Raises:
        KeyError: a name that is none of ``REQUIREMENTS``.
    """
    names = tuple(str(name) for mark in item.iter_markers("requires") for name in mark.args)
    for name in names:
        REQUIREMENTS[name]
    return names


def category(item: pytest.Item) -> str:
    """The category that a test's module states."""
    mark = item.get_closest_marker("category")
    return str(mark.args[0]) if mark is not None else ""


def _boots(item: pytest.Item) -> bool:
    fixtures = set(getattr(item, "fixturenames", ()))
    return bool(BOOTING & fixtures) and item.get_closest_marker("skip") is None


def _failed(request: pytest.FixtureRequest) -> bool:
    return bool(request.node.stash.get(_FAILED, False))


def _result(item: pytest.Item, report: pytest.TestReport) -> CaseResult:
    where, _, name = item.nodeid.rpartition("/")[2].partition("::")
    text: Any = report.longrepr
    reason = ""
    if report.skipped and isinstance(text, tuple):
        reason = str(text[2]).removeprefix("Skipped: ")
    elif report.failed:
        reason = report.longreprtext
    return CaseResult(
        module=where.removesuffix(".py"),
        test=name,
        category=category(item),
        requires=requirements(item),
        phase=report.when or "call",
        outcome=report.outcome,
        seconds=report.duration,
        reason=reason,
        facts={str(key): value for key, value in report.user_properties},
    )
