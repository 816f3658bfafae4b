"""``make bench``: run the benchmarks one after the other, each in a process of its own, and print their figures."""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = ("command_line", "verify", "measure", "diagnose", "td", "boot", "pccs", "verifier")
#: Seconds after which a benchmark is ended.
LIMIT = 900


def main() -> int:
    wanted = sys.argv[1:] or BENCHMARKS
    unknown = set(wanted) - set(BENCHMARKS)
    if unknown:
        print(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
        return 2
    failed = []
    for name in wanted:
        print(f"== {name}", flush=True)
        try:
            done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False, timeout=LIMIT)
        except subprocess.TimeoutExpired:
            failed.append(f"{name} (not done within {LIMIT} s)")
            continue
        if done.returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
