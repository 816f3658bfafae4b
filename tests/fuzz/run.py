"""Fuzz a target with atheris: ``make fuzz TARGET=quote SECONDS=600``.

Findings are written to the present directory; what keeps for the corpus goes to a scratch directory, not into the
repository. Needs ``pip install atheris``.
"""

from __future__ import annotations

import sys
import tempfile


def main() -> None:
    """Fuzz until a finding or until time is up."""
    import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

    name, *rest = sys.argv[1:] or ["quote"]
    seconds = rest.pop(0) if rest and rest[0].isdigit() else "600"
    with atheris.instrument_imports(include=["tdxstack"]):
        from fuzz.targets import CORPUS, TARGETS
    scratch = tempfile.mkdtemp(prefix="tdxstack-fuzz-")
    options = [f"-max_total_time={seconds}", "-timeout=5", "-rss_limit_mb=1024", "-max_len=65536", *rest]
    atheris.Setup([sys.argv[0], *options, scratch, str(CORPUS / name)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
