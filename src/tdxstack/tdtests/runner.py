"""Runs the stack's tests in this process, with pytest and nothing of its configuration but ours."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tdxstack.errors import UsageError
from tdxstack.tdtests.environment import RECIPES, Environment, Progress, check_platform
from tdxstack.tdtests.results import Report

CASES = Path(__file__).parent / "cases"
CONFIGURATION = CASES / "pytest.ini"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which tests: ``modules`` are ``module`` or ``module::test``; empty means all.

    A module may also be the path of a file of the user's own.
    """

    modules: tuple[str, ...] = ()

    def arguments(self) -> list[str]:
        """The paths for pytest.

        Raises:
            UsageError: there is no such module.
        """
        if not self.modules:
            return [str(CASES)]
        known = module_names()
        found = []
        for text in self.modules:
            module, _, test = text.partition("::")
            if module.endswith(".py") and Path(module).is_file():
                found.append(str(Path(module).absolute()) + (f"::{test}" if test else ""))
                continue
            name = module.rpartition("/")[2].removesuffix(".py")
            name = name if name in known else f"test_{name}"
            if name not in known:
                raise UsageError(f"no test module {module!r}", hint=f"one of {', '.join(known)}")
            found.append(f"{CASES / name}.py" + (f"::{test}" if test else ""))
        return found


def module_names() -> list[str]:
    """Names of all modules of cases."""
    return sorted(path.stem for path in CASES.glob("test_*.py"))


@dataclass(frozen=True, slots=True)
class RunOptions:
    """One run. ``junit`` is where JUnit's XML goes; with ``list_only`` nothing runs and nothing is started."""

    selection: Selection
    environment: Environment
    keep_vm: bool = False
    junit: Path | None = None
    list_only: bool = False


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What came of a run. ``status`` is pytest's exit status; ``kept`` are machines that were left."""

    status: int
    report: Report
    kept: tuple[str, ...]
    seconds: float
    listed: tuple[dict[str, Any], ...] = ()


def run_tests(options: RunOptions, told: Progress) -> RunOutcome:
    """Run the selected tests, telling of each as it ends.

    Raises:
        UsageError: no such test, or an unknown guest.
        PlatformMissing: the platform is not there, or no image of that guest can be had.
        NetworkFault: an image of that guest cannot be built without the network.
        SystemFault: an artifact that the guests boot is not what it must be.
        KeyboardInterrupt: the user's; machines are removed first.
    """
    import pytest

    from tdxstack.tdtests.plugin import StackTests

    if options.environment.guest not in RECIPES:
        raise UsageError(f"no guest {options.environment.guest!r}", hint=f"one of {', '.join(RECIPES)}")
    if options.environment.platform is not None or not options.list_only:
        check_platform(options.environment.platform)
    if not options.list_only:
        options.environment.check_artifacts()
    began = time.monotonic()
    report = Report(told)
    run = StackTests(options.environment, report, keep_vm=options.keep_vm)
    listing = _Listing()
    argv = [*_configuration(options), *options.selection.arguments()]
    status = int(pytest.main(argv, plugins=[run, listing]))
    if status == pytest.ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    if run.fault is not None:
        raise run.fault
    if listing.faults:
        raise UsageError(listing.faults[0], hint="tdxctl test stack --list")
    listed = tuple(_described(item, options.environment) for item in listing.items)
    return RunOutcome(status, report, tuple(run.machines.kept), time.monotonic() - began, listed)


def _configuration(options: RunOptions) -> list[str]:
    # Nothing of ours prints; progress of an image build is to be seen at once.
    words = ["--disable-plugin-autoload", "--capture=no", "-c", str(CONFIGURATION), "--rootdir", str(CASES)]
    for name in ("terminal", "cacheprovider"):
        words += ["-p", f"no:{name}"]
    if options.junit is not None:
        words.append(f"--junit-xml={options.junit.absolute()}")
    return [*words, "--collect-only"] if options.list_only else words


class _Listing:
    """The tests that were found, and what kept modules from being found."""

    def __init__(self) -> None:
        self.items: Sequence[Any] = ()
        self.faults: list[str] = []

    def pytest_collection_finish(self, session: Any) -> None:
        self.items = tuple(session.items)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.faults.append(report.longreprtext.strip().splitlines()[-1])


def _described(item: Any, environment: Environment) -> dict[str, Any]:
    from tdxstack.tdtests.plugin import category, requirements

    where, _, name = item.nodeid.rpartition("/")[2].partition("::")
    needed = requirements(item)
    reason = next((why for one in needed if (why := environment.missing(one))), None)
    return {
        "module": where.removesuffix(".py"),
        "test": name,
        "category": category(item),
        "requires": list(needed),
        "skipped": reason,
    }
