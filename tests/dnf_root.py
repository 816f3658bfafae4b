"""dnf with a configuration, a cache and a root of its own, which knows of one signed repository only."""

from __future__ import annotations

from pathlib import Path


def dnf_words(place: Path, repository: Path, root: Path) -> list[str]:
    """The words before a command of dnf; its files are below ``place``."""
    repos = place / "repos.d"
    repos.mkdir(exist_ok=True)
    lines = ["[tdxstack]", "name=tdxstack", f"baseurl=file://{repository}", "enabled=1", "gpgcheck=0"]
    lines += ["repo_gpgcheck=1", f"gpgkey=file://{repository}/tdxstack.asc"]
    (repos / "tdxstack.repo").write_text("\n".join(lines) + "\n")
    main = ["[main]", "plugins=0", f"reposdir={repos}", f"cachedir={place}/cache", f"logdir={place}"]
    (place / "dnf.conf").write_text("\n".join(main) + "\n")
    return ["dnf", "--assumeyes", f"--config={place}/dnf.conf", f"--installroot={root}", "--releasever=9"]
