"""CPU time of the command line: ``tdxctl --help``, ``quote show`` and ``td list``, beside an empty interpreter."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tdxstack.platform.base import TdParameters
from tdxstack.platform.software.platform import SoftwarePlatform

RUNS = 15


def cpu_milliseconds(argv: list[str]) -> float:
    """Median of user and system time of a command over some runs."""
    times = []
    for _ in range(RUNS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return statistics.median(times) * 1000


def a_quote(home: Path) -> Path:
    """A quote of a software platform, in a file."""
    platform = SoftwarePlatform.create("bench")
    module = platform.module()
    td = module.mng_create(1)
    module.mng_key_config(td)
    module.mng_init(td, TdParameters(memory_bytes=1 << 30))
    module.mr_finalize(td)
    path = home / "quote.bin"
    path.write_bytes(platform.quoting_enclave().quote(td.mr_report(bytes(64)).to_bytes()))
    return path


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TDXSTACK_HOME"] = folder
        quote = a_quote(Path(folder))
        tdxctl = [sys.executable, "-m", "tdxstack.cli"]
        for name, argv, limit in (
            ("python3 -c pass", [sys.executable, "-c", "pass"], None),
            ("tdxctl --help", [*tdxctl, "--help"], 100),
            ("tdxctl quote show", [*tdxctl, "quote", "show", str(quote)], 200),
            ("tdxctl td list", [*tdxctl, "td", "list"], None),
        ):
            aim = f"   (aim: below {limit} ms)" if limit else ""
            print(f"{name:<20} {cpu_milliseconds(argv):6.0f} ms of CPU{aim}")


if __name__ == "__main__":
    main()
