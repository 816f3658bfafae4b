"""The plan of an installation: what is missing on a host for it to run TDs, as steps. A host that has all gives none.

Order and content: Intel white paper "Linux Stacks for Intel TDX 1.5", sections 3.3.1, 4.3.2 to 4.3.4; for the
upstream stack the distribution's own packages take the place of the patched ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from tdxstack.deploy import boot
from tdxstack.deploy.data import table
from tdxstack.deploy.step import CommandStep, FileStep, Step
from tdxstack.errors import PlatformMissing
from tdxstack.platform.linux_host_files import HostFiles
from tdxstack.platform.package_lists import installed_packages, os_release
from tdxstack.wire.qcnl import QcnlConfig

APT_KEY = "/etc/apt/keyrings/tdxstack.asc"
GROUPS = ("repository", "packages", "kernel", "modules", "confinement", "attestation", "services")
QCNL = "/etc/sgx_default_qcnl.conf"
LOCAL_PCCS = "https://localhost:8081/sgx/certification/v4/"
APPARMOR_RULES = """  # tdxstack: the firmware of TDs, and the Quote Generation Service
  /usr/share/ovmf/** rk,
  /usr/share/OVMF/** rk,
  /usr/share/qemu/** rk,
  /run/tdx-qgs/qgs.socket rw,
  /var/run/tdx-qgs/qgs.socket rw,
"""
APPARMOR_LOCAL = "/etc/apparmor.d/local/abstractions/libvirt-qemu"


class Family(StrEnum):
    """Distributions that are installed alike."""

    DEBIAN = "debian"
    RHEL = "rhel"


class Stack(StrEnum):
    """Which stack is installed."""

    UPSTREAM = "upstream"
    STACK_1_5 = "1.5"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to install.

    Args:
        repository: directory with a package repository (``host_repo``), as the host sees it; empty for the
            distribution's own packages.
        kernel: version of the kernel that becomes the default, empty to leave the default.
        users: who may run TDs.
        groups: parts to install, of ``GROUPS``.
    """

    stack: Stack = Stack.UPSTREAM
    repository: str = ""
    kernel: str = ""
    users: tuple[str, ...] = ()
    pccs_url: str = LOCAL_PCCS
    groups: frozenset[str] = field(default_factory=lambda: frozenset(GROUPS))


@dataclass(frozen=True, slots=True)
class Planner:
    """Looks at a root and says what is missing."""

    root: Path
    wanted: Wanted

    @property
    def files(self) -> HostFiles:
        return HostFiles(self.root)

    def family(self) -> Family:
        """Raises PlatformMissing: a distribution that is not known here."""
        release = os_release(self.files)
        names = {release.get("ID", ""), *release.get("ID_LIKE", "").split()}
        if names & {"debian", "ubuntu"}:
            return Family.DEBIAN
        if names & {"rhel", "fedora", "centos"}:
            return Family.RHEL
        raise PlatformMissing(
            f"no installation for {release.get('ID', 'this system')}", hint="Debian, Ubuntu, RHEL, Fedora"
        )

    def steps(self) -> list[Step]:
        """The steps, in their order; those that would change nothing are left out."""
        family = self.family()
        parts = {
            "repository": self._repository,
            "packages": self._packages,
            "kernel": self._kernel,
            "modules": self._modules,
            "confinement": self._confinement,
            "attestation": self._attestation,
            "services": self._services,
        }
        return [step for name in GROUPS if name in self.wanted.groups for step in parts[name](family)]

    def _file(self, group: str, path: str, content: str, why: str) -> Iterator[FileStep]:
        if self.files.text_or_none(path) is None or self.files.text(path) != content:
            yield FileStep(group, path, content, why)

    def _repository(self, family: Family) -> Iterator[Step]:
        place = self.wanted.repository
        if not place:
            return
        if family is Family.DEBIAN:
            source, trust = self._apt_trust(place)
            line = f"deb [{trust}] file:{place} ./\n"
            source += self._file("repository", "/etc/apt/sources.list.d/tdxstack.list", line, "packages of the stack")
            pin = 'Package: *\nPin: origin ""\nPin-Priority: 4000\n'
            source += self._file(
                "repository", "/etc/apt/preferences.d/tdxstack", pin, "the stack's packages before the distribution's"
            )
            yield from source
            if source:
                yield CommandStep("repository", ("apt-get", "update"), "read the new repository")
        else:
            signed = self.files.exists(f"{place}/tdxstack.asc")
            trust = f"repo_gpgcheck=1\ngpgkey=file://{place}/tdxstack.asc\n" if signed else ""
            text = f"[tdxstack]\nname=tdxstack\nbaseurl=file://{place}\nenabled=1\ngpgcheck=0\n{trust}module_hotfixes=true\npriority=1\n"
            yield from self._file("repository", "/etc/yum.repos.d/tdxstack.repo", text, "packages of the stack")

    def _apt_trust(self, place: str) -> tuple[list[Step], str]:
        """The key, where apt's user can read it whatever the repository's directory allows, and how apt is told."""
        if key := self.files.text_or_none(f"{place}/tdxstack.asc"):
            steps = self._file("repository", APT_KEY, f"{key}\n", "the key that signs the repository")
            return list(steps), f"signed-by={APT_KEY}"
        signed = self.files.exists(f"{place}/tdxstack.gpg")
        return [], f"signed-by={place}/tdxstack.gpg" if signed else "trusted=yes"

    def _install(self, family: Family, group: str, key: str) -> Iterator[Step]:
        present = installed_packages(self.files)
        wanted = self._own(table("packages")[family.value][self.wanted.stack.value][key])
        names = [name for name in wanted if name not in present]
        if not names:
            return
        if family is Family.DEBIAN:
            argv = ("apt-get", "install", "--yes", "--no-install-recommends", "--allow-downgrades", *names)
            undo = ("apt-get", "remove", "--yes", *names)
        else:
            argv, undo = ("dnf", "install", "--assumeyes", *names), ("dnf", "remove", "--assumeyes", *names)
        yield CommandStep(group, argv, f"{len(names)} packages are missing", undo)

    def _own(self, names: list[str]) -> list[str]:
        """``names``, with those that packages in the repository take the place of replaced by these."""
        if not self.wanted.repository:
            return names
        files = self.files.names(self.wanted.repository)
        there = {name.split("_", 1)[0] for name in files if name.endswith(".deb")}
        there |= {name.rsplit("-", 2)[0] for name in files if name.endswith(".rpm")}
        own = {name: places for name, places in table("packages")["own"].items() if name in there}
        replaced = {place for places in own.values() for place in places}
        if not replaced & set(names):
            return names
        return [name for name in names if name not in replaced] + sorted(own)

    def _packages(self, family: Family) -> Iterator[Step]:
        yield from self._install(family, "packages", "packages")
        yield from self._users("packages")

    def _users(self, key: str) -> Iterator[Step]:
        groups = _group_members(self.files.text_or_none("/etc/group") or "")
        for user in self.wanted.users:
            for group in table("packages")["groups"][key]:
                if user not in groups.get(group, ()):
                    argv = ("usermod", "--append", "--groups", group, user)
                    yield CommandStep(key, argv, f"{user} runs TDs", ("gpasswd", "--delete", user, group))

    def _kernel(self, family: Family) -> Iterator[Step]:
        parameters = table("packages")["parameters"][self.wanted.stack.value]
        if family is Family.DEBIAN:
            yield from self._kernel_debian(parameters)
        else:
            yield from self._kernel_rhel(parameters)

    def _kernel_debian(self, parameters: list[str]) -> Iterator[Step]:
        path = "/etc/default/grub"
        old = self.files.text_or_none(path)
        changes = []
        if old is not None:
            text = boot.edit_grub(self.files.text(path), parameters)
            if self.wanted.kernel:
                text = self._default_entry(text)
            changes = list(self._file("kernel", path, text, "kernel parameters of a TDX host"))
        yield from changes
        if changes:
            yield CommandStep("kernel", ("update-grub",), "make the boot menu anew", ("update-grub",))

    def _default_entry(self, text: str) -> str:
        config = self.files.text_or_none("/boot/grub/grub.cfg") or ""
        entry = boot.grub_entry(config, self.wanted.kernel)
        if entry is None:
            hint = "install the kernel first: tdxctl host install without --kernel"
            raise PlatformMissing(f"no boot entry for kernel {self.wanted.kernel}", hint=hint)
        lines = [line for line in text.splitlines() if not line.startswith("GRUB_DEFAULT=")]
        return "\n".join([*lines, f'GRUB_DEFAULT="{entry}"']) + "\n"

    def _kernel_rhel(self, parameters: list[str]) -> Iterator[Step]:
        for path in ("/etc/default/grub", "/etc/kernel/cmdline"):
            if self.files.text_or_none(path) is None:
                continue
            text = self.files.text(path)
            new = (
                boot.edit_grub(text, parameters)
                if path.endswith("grub")
                else f"{boot.with_parameters(text, parameters)}\n"
            )
            yield from self._file("kernel", path, new, "kernel parameters of kernels to come")
        names = self.files.names("/boot/loader/entries")
        for name in names:
            path = f"/boot/loader/entries/{name}"
            if name.endswith(".conf") and self.files.text_or_none(path) is not None:
                new = boot.edit_bls(self.files.text(path), parameters)
                yield from self._file("kernel", path, new, "kernel parameters of a TDX host")
        if self.wanted.kernel:
            yield from self._default_bls(names)

    def _default_bls(self, names: list[str]) -> Iterator[Step]:
        entry = next((name for name in names if name.endswith(f"-{self.wanted.kernel}.conf")), None)
        path = "/boot/grub2/grubenv"
        if entry is None or self.files.text_or_none(path) is None:
            raise PlatformMissing(f"no boot entry for kernel {self.wanted.kernel}", hint="ls /boot/loader/entries")
        new = boot.edit_grubenv(self.files.text(path), "saved_entry", entry.removesuffix(".conf"))
        yield from self._file("kernel", path, new, "the default kernel")

    def _modules(self, family: Family) -> Iterator[Step]:
        yield from self._file(
            "modules", "/etc/modules-load.d/tdxstack.conf", "kvm_intel\nvhost_vsock\nmsr\n", "loaded at boot"
        )
        if self.wanted.stack is Stack.UPSTREAM:
            text = "options kvm_intel tdx=1\n"
            yield from self._file(
                "modules", "/etc/modprobe.d/tdxstack.conf", text, "KVM with TDX, also without a reboot"
            )

    def _confinement(self, family: Family) -> Iterator[Step]:
        if not self.files.exists("/etc/apparmor.d/abstractions/libvirt-qemu"):
            return
        old = self.files.text_or_none(APPARMOR_LOCAL)
        if old is not None and "tdx-qgs" in old:
            return
        text = f"{old}\n{APPARMOR_RULES}" if old else APPARMOR_RULES
        yield from self._file("confinement", APPARMOR_LOCAL, text, "what QEMU of a TD opens under libvirt")
        reload = ("systemctl", "reload", "apparmor")
        yield CommandStep("confinement", reload, "read the rules", reload)

    def _attestation(self, family: Family) -> Iterator[Step]:
        yield from self._install(family, "attestation", "attestation")
        text = self.files.text_or_none(QCNL)
        config = QcnlConfig.empty() if text is None else QcnlConfig.from_text(self.files.text(QCNL))
        local = "//localhost" in self.wanted.pccs_url
        changes: dict[str, str | bool | int] = {}
        if config.pccs_url != self.wanted.pccs_url:
            changes["pccs_url"] = self.wanted.pccs_url
        if config.use_secure_cert and local:
            changes["use_secure_cert"] = False
        if changes:
            yield FileStep("attestation", QCNL, config.with_values(changes).text, "where QGS finds PCCS")
        yield from self._users("attestation")

    def _services(self, family: Family) -> Iterator[Step]:
        enabled = set(self.files.names("/etc/systemd/system/multi-user.target.wants"))
        groups = ("packages", "attestation") if "attestation" in self.wanted.groups else ("packages",)
        for group in groups:
            for unit in table("packages")["services"][group]:
                if unit not in enabled:
                    undo = ("systemctl", "disable", unit)
                    yield CommandStep("services", ("systemctl", "enable", "--now", unit), "runs from now on", undo)


def _group_members(text: str) -> Mapping[str, set[str]]:
    rows = (line.split(":") for line in text.splitlines())
    return {row[0]: {name for name in row[3].split(",") if name} for row in rows if len(row) == 4}
