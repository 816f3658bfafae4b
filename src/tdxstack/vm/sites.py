"""The sites of TDs: this machine, or the one that ``connect`` of the specification names."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tdxstack.vm.ports import can_bind
from tdxstack.vm.record import Place
from tdxstack.vm.site import PortIsFree, Site, is_far
from tdxstack.vm.spec import TdSpec

if TYPE_CHECKING:
    from tdxstack.vm.dialects import Dialect


class Here:
    """This machine."""

    key = ""

    def directory(self, name: str) -> Path:
        return Place(name).directory

    def run_dir(self, name: str) -> Path:
        return Place(name).run_dir

    def check(self, spec: TdSpec) -> None:
        from tdxstack.vm.spec_rules import check_files

        check_files(spec)

    def dialect(self, spec: TdSpec) -> Dialect:
        from tdxstack.vm import choose

        return choose.dialect(spec)

    def accelerator(self, spec: TdSpec) -> str:
        from tdxstack.vm import choose

        return choose.accelerator(spec)

    def firmware(self, spec: TdSpec) -> Path | None:
        from tdxstack.vm import choose

        return choose.firmware(spec)

    def needs_smm(self, firmware: Path | None) -> bool:
        from tdxstack.vm.firmware_facts import needs_smm

        return needs_smm(firmware)

    def digest(self, path: Path) -> str:
        from tdxstack.system.files import sha256_file

        return sha256_file(path)

    def image_format(self, path: Path) -> str:
        from tdxstack.vm.disk import image_format

        return image_format(path)

    def program(self, name: str) -> str:
        from tdxstack.system.process import find

        return find(name)

    def user(self) -> tuple[int, int]:
        import os

        return os.geteuid(), os.getegid()

    def free_ports(self) -> PortIsFree:
        return can_bind

    def prepare(self, name: str, authorized_keys: str, *, goes_on: bool) -> None:
        from tdxstack.system.files import write_atomic

        place = Place(name)
        if not goes_on:
            place.console_log.unlink(missing_ok=True)
        write_atomic(place.run_dir / "authorized_keys", authorized_keys, mode=0o600)

    def exists(self, path: Path) -> bool:
        return path.exists()

    def make_overlay(self, image: Path, overlay: Path) -> None:
        from tdxstack.vm.disk import make_overlay

        make_overlay(image, overlay)

    def make_directory(self, path: Path) -> None:
        from tdxstack.system.files import private_directory

        private_directory(path)

    def copy(self, source: Path, target: Path) -> None:
        from tdxstack.vm.disk import copy

        copy(source, target)

    def move(self, source: Path, target: Path) -> None:
        source.replace(target)

    def remove(self, path: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def forget(self, name: str) -> None:
        """Nothing: all of it is in its directory here, which its record goes with."""


HERE: Site = Here()


def site_of(spec: TdSpec) -> Site:
    """The site of a TD; nothing is connected to yet.

    Raises:
        PlatformMissing: another host that is not reached by ssh.
    """
    if not is_far(spec):
        return HERE
    from tdxstack.vm.libvirt.far_site import FarSite

    return FarSite.of(spec.connect)
