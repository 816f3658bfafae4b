"""The TDX module of a Linux host: staged on the ESP for the next boot, or replaced while TDs run.

ESP names: Intel white paper "Linux Stacks for Intel TDX 1.5", section 9.1. Replacing: the 1.5 stack's
``/sys/devices/system/cpu/tdx/reload`` (section 6), and upstream Linux's firmware upload
(Documentation/ABI/testing/sysfs-class-firmware) of the device ``tdx_module``; drafts called it ``seamldr_upload``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tdxstack.errors import PlatformMissing, StateError, SystemFault
from tdxstack.system.files import sha256_file, write_atomic
from tdxstack.wire.seam import BlobVersion, TdxBlob

ESP_PLACES = ("boot/efi", "efi", "boot")
ESP_DIRECTORY = "EFI/TDX"
LOADER, MODULE, SIGSTRUCT = "TDX-SEAM_SEAMLDR.bin", "TDX-SEAM.so", "TDX-SEAM.so.sigstruct"
RECORD = "tdxctl-previous.json"
#: Device -> version of the blob it takes: the released kernel's, and the drafts'.
UPLOADS = {
    "sys/class/firmware/tdx_module": BlobVersion.TWO,
    "sys/class/firmware/seamldr_upload": BlobVersion.ONE,
}
RELOAD = "sys/devices/system/cpu/tdx/reload"
FIRMWARE = "lib/firmware/intel-seam"
RELOAD_MODULE, RELOAD_SIGSTRUCT = "libtdx.bin", "libtdx.bin.sigstruct"
POLL_SECONDS = 0.2
TIMEOUT_SECONDS = 60.0
BUSY_RETRIES = 5


def find_esp(root: Path, named: Path | None = None) -> Path:
    """The mounted EFI system partition under ``root``.

    Raises:
        PlatformMissing: none is mounted where it usually is.
    """
    if named is not None:
        return named
    for place in ESP_PLACES:
        if (root / place / "EFI").is_dir():
            return root / place
    hint = "mount it, or name it with --esp DIR"
    raise PlatformMissing("no EFI system partition at /boot/efi, /efi or /boot", hint=hint)


@dataclass(frozen=True, slots=True)
class Change:
    """A file to be put somewhere; ``data`` None removes it. ``old`` is the digest of what is there, or None."""

    path: Path
    data: bytes | None
    old: str | None

    def text(self) -> str:
        if self.data is None:
            return f"remove {self.path}"
        return f"{'replace' if self.old else 'write'} {self.path} ({len(self.data)} bytes)"


def digest(path: Path) -> str | None:
    return sha256_file(path) if path.is_file() else None


def plan(directory: Path, files: dict[str, bytes]) -> list[Change]:
    """The changes that put ``files`` (name -> content) into ``directory``."""
    return [Change(directory / name, data, digest(directory / name)) for name, data in files.items()]


def apply(directory: Path, changes: Sequence[Change]) -> None:
    """Make the changes; what was there is kept beside it as ``NAME.old`` and recorded, so that it can come back.

    Done again with the same files, it keeps the first ``.old``.
    """
    directory.mkdir(parents=True, exist_ok=True)
    record = _record(directory)
    for change in changes:
        name = change.path.name
        if change.data is not None and change.path.is_file() and change.path.read_bytes() == change.data:
            continue
        if name not in record:
            record[name] = change.old
            if change.old is not None:
                write_atomic(change.path.with_name(f"{name}.old"), change.path.read_bytes())
        write_atomic(directory / RECORD, json.dumps(record, indent=2) + "\n")
        if change.data is not None:
            write_atomic(change.path, change.data)


def _record(directory: Path) -> dict[str, str | None]:
    try:
        value = json.loads((directory / RECORD).read_text())
    except (OSError, ValueError):
        return {}
    return {str(name): old for name, old in value.items()} if isinstance(value, dict) else {}


def rollback_plan(directory: Path) -> list[Change]:
    """The changes that bring back what was there before.

    Raises:
        StateError: nothing is recorded, or a kept file is gone or another.
    """
    record = _record(directory)
    if not record:
        raise StateError(str(directory), "roll back", "nothing is staged", "a module staged by tdxctl before")
    changes = []
    for name, old in record.items():
        kept = directory / f"{name}.old"
        if old is None:
            changes.append(Change(directory / name, None, digest(directory / name)))
        elif digest(kept) != old:
            raise StateError(str(kept), "roll back", "missing or changed", "the file that was kept")
        else:
            changes.append(Change(directory / name, kept.read_bytes(), digest(directory / name)))
    return changes


def roll_back(directory: Path, changes: Sequence[Change]) -> None:
    """Bring back what was there, and forget the record."""
    for change in changes:
        if change.data is None:
            change.path.unlink(missing_ok=True)
        else:
            write_atomic(change.path, change.data)
    for change in changes:
        change.path.with_name(f"{change.path.name}.old").unlink(missing_ok=True)
    (directory / RECORD).unlink(missing_ok=True)


Pause = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Upload:
    """Upstream Linux's firmware upload of the module: a directory of sysfs files."""

    directory: Path
    version: BlobVersion

    @classmethod
    def find(cls, root: Path) -> Upload | None:
        for place, version in UPLOADS.items():
            if (root / place / "loading").exists():
                return cls(root / place, version)
        return None

    def steps(self) -> list[str]:
        """What is done, in words."""
        return [
            f"echo 1 > {self.directory}/loading",
            f"cat BLOB > {self.directory}/data",
            f"echo 0 > {self.directory}/loading",
            f"read {self.directory}/status until it is idle, then {self.directory}/error",
        ]

    def replace(self, blob: TdxBlob, *, pause: Pause = time.sleep, timeout: float = TIMEOUT_SECONDS) -> None:
        """Upload ``blob`` and wait for the end. A busy module is tried again.

        Raises:
            SystemFault: the kernel or P-SEAMLDR refused; the message says whether the old module still runs.
        """
        data = TdxBlob(self.version, blob.sigstruct, blob.module).to_bytes()
        error = self._once(data, pause, timeout)
        for _ in range(BUSY_RETRIES):
            if not error.endswith("device-busy"):
                break
            pause(1.0)
            error = self._once(data, pause, timeout)
        if error:
            raise _upload_failed(error)

    def _once(self, data: bytes, pause: Pause, timeout: float) -> str:
        if (found := self._read("status")) != "idle":
            raise StateError("firmware upload tdx_module", "start", found, "idle", hint="another update is under way")
        self._write("loading", b"1")
        self._write("data", data)
        self._write("loading", b"0")
        waited = 0.0
        while self._read("status") != "idle":
            if waited >= timeout:
                raise SystemFault(f"the update did not end within {timeout:g} s", hint="see dmesg; do not start TDs")
            pause(POLL_SECONDS)
            waited += POLL_SECONDS
        return self._read("error")

    def _read(self, name: str) -> str:
        try:
            return (self.directory / name).read_text().strip()
        except OSError as error:
            raise SystemFault(f"{self.directory / name}: {error.strerror}", hint="run as root") from error

    def _write(self, name: str, data: bytes) -> None:
        try:
            (self.directory / name).write_bytes(data)
        except OSError as error:
            raise SystemFault(f"{self.directory / name}: {error.strerror}", hint="run as root") from error


def _upload_failed(error: str) -> SystemFault:
    stage, _, reason = error.partition(":")
    if reason == "device-busy":
        return SystemFault(
            f"the module is busy ({error}): a TD is being built", hint="try again when no TD is starting"
        )
    if stage in ("preparing", "receiving"):
        return SystemFault(
            f"the module was refused before anything changed ({error})", hint="tdxctl module check FILE"
        )
    hint = "see dmesg (tdxctl host diagnose); if TDs ended, reboot: the old module is gone"
    return SystemFault(f"the update failed ({error}); TDX may be off until a reboot", hint=hint)


@dataclass(frozen=True, slots=True)
class Reload:
    """The 1.5 stack's way: files under /lib/firmware/intel-seam and one word to sysfs."""

    root: Path

    @classmethod
    def find(cls, root: Path) -> Reload | None:
        return cls(root) if (root / RELOAD).exists() else None

    @property
    def directory(self) -> Path:
        return self.root / FIRMWARE

    def files(self, blob: TdxBlob) -> dict[str, bytes]:
        return {RELOAD_MODULE: blob.module, RELOAD_SIGSTRUCT: blob.sigstruct.raw}

    def steps(self) -> list[str]:
        return [f"echo update > {self.root / RELOAD}"]

    def replace(self, blob: TdxBlob) -> None:
        """Put the files in place and ask the kernel for the update.

        Raises:
            SystemFault: the kernel refused; the previous files are brought back.
        """
        apply(self.directory, plan(self.directory, self.files(blob)))
        try:
            (self.root / RELOAD).write_text("update")
        except OSError as error:
            roll_back(self.directory, rollback_plan(self.directory))
            raise SystemFault(f"{self.root / RELOAD}: {error.strerror}", hint="see dmesg") from error
