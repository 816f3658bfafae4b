"""Images that were built: directories ``<recipe>-<hash12>`` with a manifest, whole or absent."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tdxstack.errors import StateError, SystemFault, UsageError
from tdxstack.system import paths

MANIFEST = "manifest.json"
SCHEMA = "tdxstack/image/v1"


@dataclass(frozen=True, slots=True)
class Image:
    """A built guest image.

    ``disk`` is a raw GPT disk; ``kernel`` and ``initrd`` are the files that a direct boot takes, with
    ``default_cmdline``. ``sha256s`` maps ``kernel`` and ``initrd`` to hex digests. ``key`` is the digest of all
    that the image was made from; ``created`` is UTC, ISO 8601.
    """

    name: str
    recipe: str
    boot: str
    path: Path
    disk: Path
    kernel: Path
    initrd: Path
    default_cmdline: str
    sha256s: Mapping[str, str]
    key: str
    created: str
    manifest: Mapping[str, Any]

    def describe(self) -> dict[str, Any]:
        """The image as plain data for JSON."""
        return {
            "name": self.name,
            "recipe": self.recipe,
            "boot": self.boot,
            "path": str(self.path),
            "disk": {"path": str(self.disk), "format": "raw", "bytes": self.disk.stat().st_size},
            "kernel": {"path": str(self.kernel), "sha256": self.sha256s["kernel"]},
            "initrd": {"path": str(self.initrd), "sha256": self.sha256s["initrd"]},
            "cmdline": self.default_cmdline,
            "created": self.created,
            "key": self.key,
        }


def read_image(path: Path) -> Image:
    """The image in a directory.

    Raises:
        SystemFault: its manifest or one of its files is missing or unreadable.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        image = Image(
            name=path.name,
            recipe=manifest["recipe"],
            boot=manifest["boot"],
            path=path,
            disk=path / manifest["files"]["disk"]["name"],
            kernel=path / manifest["files"]["kernel"]["name"],
            initrd=path / manifest["files"]["initrd"]["name"],
            default_cmdline=manifest["cmdline"],
            sha256s={role: manifest["files"][role]["sha256"] for role in ("kernel", "initrd")},
            key=manifest["key"],
            created=manifest["created"],
            manifest=manifest,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemFault(
            f"image {path.name} is damaged: {error}",
            hint=f"tdxctl image delete {path.name} --yes, then build it again",
        ) from error
    for part in (image.disk, image.kernel, image.initrd):
        if not part.is_file():
            hint = f"tdxctl image delete {path.name} --yes, then build it again"
            raise SystemFault(f"image {path.name} has no {part.name}", hint=hint)
    return image


def _directories() -> list[Path]:
    return sorted(path for path in paths.images(create=False).glob("[!.]*") if path.is_dir())


def list_images() -> list[Image]:
    """All whole images, newest last; damaged ones are left out."""
    images = []
    for path in _directories():
        try:
            images.append(read_image(path))
        except SystemFault:
            continue
    return sorted(images, key=lambda image: image.created)


def find_image(name: str, *, boot: str | None = None) -> Image:
    """The image of that name, or of the recipe of that name the newest: of those made for ``boot``, if there are any.

    Raises:
        UsageError: there is none.
        SystemFault: it is damaged.
    """
    if name and "/" not in name and not name.startswith(".") and (paths.images(create=False) / name).is_dir():
        return read_image(paths.images(create=False) / name)
    of_recipe = [image for image in list_images() if image.recipe == name]
    if not of_recipe:
        raise UsageError(f"no image {name!r}", hint=f"tdxctl image build {name}, or tdxctl image list")
    return ([image for image in of_recipe if image.boot == boot] or of_recipe)[-1]


def find_by_key(key: str) -> Image | None:
    """The newest image made from exactly this, if there is one."""
    return next((image for image in reversed(list_images()) if image.key == key), None)


def users_of(name: str) -> list[str]:
    """Names of TDs whose record mentions the image: their disks are overlays on it."""
    records = sorted(paths.tds(create=False).glob("*/td.json"))
    return [record.parent.name for record in records if name in record.read_text(errors="replace")]


def deletable(name: str) -> Path:
    """Where an image is that no TD uses.

    Raises:
        UsageError: there is none of that name.
        StateError: a TD's disk is an overlay on it.
    """
    path = paths.images(create=False) / name
    if not name or "/" in name or name.startswith(".") or not path.is_dir():
        raise UsageError(f"no image {name!r}", hint="tdxctl image list")
    if users := users_of(name):
        raise StateError(
            f"image {name}",
            "delete",
            f"used by {', '.join(users)}",
            "no TD that uses it",
            hint=f"tdxctl td delete {users[0]}",
        )
    return path


def delete_image(name: str) -> Path:
    """Remove an image that no TD uses; returns where it was.

    Raises:
        UsageError: there is none of that name.
        StateError: a TD's disk is an overlay on it.
    """
    path = deletable(name)
    # Out of sight at once; what is left of it if we are killed is cleared by the next build.
    doomed = path.with_name(f".deleted-{name}")
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
    return path
