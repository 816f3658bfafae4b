"""Fuzz with atheris: ``make fuzz``, every target in turn; ``make fuzz TARGET=quote SECONDS=600``, one of them.

``SECONDS`` is what all take together. Findings are written to the present directory and end the run with status 1;
what keeps for the corpus goes to a scratch directory, not into the repository. Needs ``pip install atheris``.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile


def every_target(seconds: int, rest: list[str]) -> int:
    """Fuzz each target in a process of its own, for its share of the time. How many of them had findings."""
    from fuzz.targets import TARGETS

    share = max(1, seconds // len(TARGETS))
    failed = []
    for name in TARGETS:
        print(f"{name}: {share} s", flush=True)
        command = [sys.executable, "-m", "fuzz.run", name, str(share), "-verbosity=0", "-print_final_stats=1", *rest]
        if subprocess.run(command, check=False).returncode != 0:
            failed.append(name)
    print(f"{len(TARGETS)} targets, findings in: {', '.join(failed) or 'none'}")
    return len(failed)


def one_target(name: str, seconds: int, rest: list[str]) -> None:
    """Fuzz until a finding or until time is up; does not return."""
    import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

    with atheris.instrument_imports(include=["tdxstack"]):
        from fuzz.targets import CORPUS, TARGETS
    if name not in TARGETS:
        sys.exit(f"no target {name!r}: all, {', '.join(TARGETS)}")
    scratch = tempfile.mkdtemp(prefix="tdxstack-fuzz-")
    options = [f"-max_total_time={seconds}", "-timeout=5", "-rss_limit_mb=1024", "-max_len=65536", *rest]
    atheris.Setup([sys.argv[0], *options, scratch, str(CORPUS / name)], TARGETS[name])
    atheris.Fuzz()


def main() -> None:
    """Read the arguments: target, seconds, options of libFuzzer."""
    name, *rest = sys.argv[1:] or ["all"]
    seconds = int(rest.pop(0)) if rest and rest[0].isdigit() else 600
    if name == "all":
        sys.exit(1 if every_target(seconds, rest) else 0)
    one_target(name, seconds, rest)


if __name__ == "__main__":
    main()
