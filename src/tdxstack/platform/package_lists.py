"""Installed packages and the distribution's name, from a host's files."""

from __future__ import annotations

from collections.abc import Mapping

from tdxstack.platform.linux_host_files import HostFiles, HostReadError
from tdxstack.platform.linux_host_source import DIRECTORY, LiveHost


def read_dpkg_status(text: str) -> dict[str, str]:
    """Installed packages of ``/var/lib/dpkg/status``: name -> version."""
    found: dict[str, str] = {}
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and line[:1] != " ")
        if fields.get("Status", "").endswith(" installed") and "Package" in fields:
            found[fields["Package"]] = fields.get("Version", "")
    return found


def read_rpm_list(text: str) -> dict[str, str]:
    """``name<TAB>version`` a line."""
    pairs = (line.split("\t", 1) for line in text.splitlines() if "\t" in line)
    return {name: version.strip() for name, version in pairs}


def read_os_release(text: str) -> dict[str, str]:
    """``/etc/os-release`` (os-release(5))."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip().strip("\"'") for key, value in pairs}


def installed_packages(files: HostFiles) -> Mapping[str, str]:
    """Name -> version, of dpkg or RPM; empty where neither keeps any."""
    try:
        return read_dpkg_status(files.text("/var/lib/dpkg/status", limit=64 << 20))
    except HostReadError as error:
        if not error.missing:
            raise
    text = LiveHost().rpm_packages() if files.live else files.text_or_none(f"{DIRECTORY}/rpm-packages")
    return read_rpm_list(text) if text else {}


def os_release(files: HostFiles) -> Mapping[str, str]:
    """Raises HostReadError: there is no ``/etc/os-release``."""
    return read_os_release(files.text("/etc/os-release"))
