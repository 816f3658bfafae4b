"""Builds a guest image from a recipe: cached by what it is made from, whole or absent, one build at a time."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tdxstack.errors import LockHeld, SystemFault, UsageError
from tdxstack.image.by_sudo import hand_over
from tdxstack.image.guest_bundle import guest_bundle
from tdxstack.image.mirror import configured_mirror
from tdxstack.image.mkosi_config import PACKAGE_CACHE, REPOSITORY, kernel_command_line, render
from tdxstack.image.options import BootLayout, BuildOptions
from tdxstack.image.recipes import DEFAULT_RECIPE, Recipe, load_recipe
from tdxstack.image.sandbox import Progress, entered, require_root, run_logged
from tdxstack.image.store import MANIFEST, SCHEMA, Image, find_by_key, read_image
from tdxstack.image.subscription import subscription
from tdxstack.image.tools_tree import ensure_tools_tree, tools_digest
from tdxstack.image.tree import tree_digest, write_tree
from tdxstack.system import paths
from tdxstack.system.files import locked, private_directory, sha256_file, sync_directory

#: Free bytes that a build of the smallest kind wants on the file systems of images and cache.
NEEDED_SPACE = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Plan:
    """One build, decided: nothing has been touched yet."""

    recipe: Recipe
    options: BuildOptions
    bundle: bytes
    mirror: str | None

    @property
    def key(self) -> str:
        """Hex SHA-256 of everything that the image is made from, but for the mirror and the packages' versions."""
        tree = render(self.recipe, self.options, self.bundle, None)
        return hashlib.sha256(f"{tree_digest(tree)} {tools_digest(self.recipe.distribution)}".encode()).hexdigest()


def plan_build(recipe: str = DEFAULT_RECIPE, options: BuildOptions | None = None) -> Plan:
    """Decide what a build would do.

    Raises:
        UsageError: no such recipe.
    """
    loaded = load_recipe(recipe)
    return Plan(loaded, options or BuildOptions(), guest_bundle(), configured_mirror(loaded.distribution))


def build_image(
    recipe: str = DEFAULT_RECIPE,
    options: BuildOptions | None = None,
    *,
    force: bool = False,
    progress: Progress = lambda _: None,
) -> Image:
    """The image of a recipe: the one that is there, or a new one.

    Args:
        force: build even if an image of the same making is there; the older one stays, since TDs may use it.
        progress: called with one line per step.

    Raises:
        PlatformMissing: RHEL on a host without a subscription.
        UsageError, NetworkFault, SystemFault: nothing half-written is left; the log stays under the cache.
    """
    plan = plan_build(recipe, options)
    if not force and (found := find_by_key(plan.key)):
        return found
    subscription(plan.recipe.distribution, plan.mirror)
    require_root(f"image build {recipe}")
    with _one_build_at_a_time(progress):
        if not force and (found := find_by_key(plan.key)):
            return found
        _clear_leftovers()
        _check_space()
        tools = ensure_tools_tree(plan.recipe.distribution, progress)
        return _build(plan, tools, progress)


@contextmanager
def _one_build_at_a_time(progress: Progress) -> Iterator[None]:
    lock = paths.images() / ".lock"
    try:
        with locked(lock, wait=False):
            yield
            return
    except LockHeld as held:
        if held.path != str(lock):
            raise
    progress("another image build is running: waiting for it")
    with locked(lock):
        yield


def _clear_leftovers() -> None:
    """Remove what builds that were killed have left; we hold the lock, so none of it is in use."""
    for pattern in (".build-*", ".deleted-*"):
        for path in paths.images().glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def _check_space() -> None:
    for place in (paths.images(), paths.cache()):
        free = shutil.disk_usage(place).free
        if free < NEEDED_SPACE:
            raise SystemFault(
                f"{place} has {free >> 20} MB free; building an image takes {NEEDED_SPACE >> 20}",
                hint=f"free space (df -h {place}), or set TDXSTACK_HOME to a directory with more",
            )


def _build(plan: Plan, tools: Path, progress: Progress) -> Image:
    started = time.monotonic()
    work = paths.images() / f".build-{plan.recipe.name}-{os.getpid()}"
    log = private_directory(paths.cache() / "logs") / f"image-{plan.recipe.name}.log"
    log.write_bytes(b"")
    try:
        for name in ("config", "ws", "out"):
            private_directory(work / name)
        write_tree(work / "config", render(plan.recipe, plan.options, plan.bundle, plan.mirror))
        _run_mkosi(plan, work, tools, log, progress)
        image = _collect(plan, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    progress(f"image {image.name} built in {time.monotonic() - started:.0f} s")
    return image


def _run_mkosi(plan: Plan, work: Path, tools: Path, log: Path, progress: Progress) -> None:
    binds = {work: "/build", private_directory(paths.cache() / "packages"): PACKAGE_CACHE}
    binds |= subscription(plan.recipe.distribution, plan.mirror)
    repository = plan.options.guest_repo
    if repository is not None and "://" not in repository:
        binds[_repository_folder(repository)] = REPOSITORY

    def note(line: str) -> None:
        # mkosi marks its steps so, and indents what belongs to one
        if line.startswith("‣ ") and not line.startswith(("‣ +", "‣    ")):
            step = line[2:].strip().rstrip("…")
            if step.startswith(("Installing", "Generating", "Formatting", "Running", "Copying")):
                progress(f"{plan.recipe.name}: {step[0].lower()}{step[1:].replace('/build/config/', '')}")

    argv = ["mkosi", "--directory", "/build/config", "--debug", "build"]
    run_logged(entered(tools, binds, argv), log, note, home=Path("/root"))
    if not (work / "out/disk.raw").is_file():
        raise SystemFault("mkosi made no disk", hint=f"the whole log: {log}")


def _repository_folder(name: str) -> Path:
    folder = Path(name).resolve()
    if not folder.is_dir():
        raise UsageError(f"no folder {name} for --guest-repo", hint="give a folder of packages, or a URL")
    return folder


def _collect(plan: Plan, work: Path) -> Image:
    """Put the parts and their manifest into a directory, and give that its name as the last step."""
    ready, out = private_directory(work / "ready"), work / "out"
    (out / "disk.raw").rename(ready / "disk.raw")
    (out / "disk.vmlinuz").rename(ready / "vmlinuz")
    (out / "initrd.img").rename(ready / "initrd.img")
    if plan.options.boot is BootLayout.UKI:
        (out / "uki.efi").rename(ready / "uki.efi")
    manifest = _manifest(plan, ready, json.loads((out / "disk.manifest").read_text()))
    (ready / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    for path in ready.iterdir():
        path.chmod(0o644)
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    target = paths.images() / f"{plan.recipe.name}-{plan.key[:12]}"
    if target.exists():
        tag = hashlib.sha256(f"{plan.key} {manifest['created']}".encode()).hexdigest()[:12]
        target = target.with_name(f"{plan.recipe.name}-{tag}")
    hand_over(ready, paths.images())
    ready.rename(target)
    sync_directory(target.parent)
    return read_image(target)


def _manifest(plan: Plan, ready: Path, mkosi: dict[str, Any]) -> dict[str, Any]:
    packages = {item["name"]: item["version"] for item in mkosi.get("packages", [])}
    files = {
        "disk": {"name": "disk.raw", "bytes": (ready / "disk.raw").stat().st_size},
        "kernel": {"name": "vmlinuz", "sha256": sha256_file(ready / "vmlinuz")},
        "initrd": {"name": "initrd.img", "sha256": sha256_file(ready / "initrd.img")},
    }
    if plan.options.boot is BootLayout.UKI:
        files["uki"] = {"name": "uki.efi", "sha256": sha256_file(ready / "uki.efi")}
    return {
        "schema": SCHEMA,
        "recipe": plan.recipe.name,
        "title": plan.recipe.title,
        "boot": plan.options.boot.value,
        "key": plan.key,
        "created": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "cmdline": kernel_command_line(plan.recipe, plan.options),
        "ima": plan.options.measures_by_ima,
        "hostname": plan.options.hostname,
        "user": plan.options.user,
        "files": files,
        "guest_bundle_sha256": hashlib.sha256(plan.bundle).hexdigest(),
        "packages": packages,
    }
