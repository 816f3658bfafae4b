"""What the tests run on: platform, accelerator, guest image; and what each test may require of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tdxstack.cloud.artifacts import ArtifactManifest
from tdxstack.cloud.dut import DUT
from tdxstack.cloud.vmparam import VMSpec
from tdxstack.errors import PlatformMissing, TdxStackError, UsageError
from tdxstack.image.builder import build_image
from tdxstack.image.firmware import default_firmware
from tdxstack.image.options import BuildOptions
from tdxstack.platform.base import HARDWARE
from tdxstack.platform.linux_host_files import HostFiles
from tdxstack.platform.registry import default_name, open_platform
from tdxstack.vm.keys import authorized_keys

#: The recipe of each guest distribution's image.
RECIPES = {"debian": "debian-13", "ubuntu": "ubuntu-24.04", "rhel": "rhel-9"}
KIB_PER_GIB = 1 << 20
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Environment:
    """One run's surroundings.

    Args:
        guest: distribution of the guests: a key of ``RECIPES``.
        artifacts: entries of ``artifacts.yaml``; without them the guests are of the built image.
        platform: name of the platform, or None for the default one.
        outside: URL that a guest is to fetch, or None.
    """

    guest: str = "debian"
    artifacts: ArtifactManifest = ArtifactManifest({})  # noqa: RUF009 - frozen
    platform: str | None = None
    outside: str | None = None
    progress: Progress = lambda _: None

    @cached_property
    def dut(self) -> DUT:
        """This host."""
        return DUT()

    @cached_property
    def platform_name(self) -> str:
        return self.platform or default_name()

    @cached_property
    def hardware(self) -> bool:
        """Whether TDs run on silicon."""
        return self.platform_name == HARDWARE

    @cached_property
    def emulated(self) -> bool:
        """Whether guests' instructions are emulated, which takes about ten times as long."""
        from tdxstack.platform.accelerator import Accelerator, probe

        return not self.hardware and probe().accelerator is not Accelerator.KVM

    @property
    def size(self) -> VMSpec:
        """Size of a guest where the test does not say."""
        return VMSpec(cores=1, memsize=KIB_PER_GIB) if self.emulated else VMSpec(cores=4, memsize=4 * KIB_PER_GIB)

    def count(self, accelerated: int, emulated: int) -> int:
        """How many of something: as the white paper has it, or fewer where CPUs are emulated."""
        return emulated if self.emulated else accelerated

    @cached_property
    def image(self) -> tuple[Path, Path | None, Path | None, str | None]:
        """Disk, and kernel, initrd and command line of a direct boot: of the artifacts, else of the built image.

        Raises:
            UsageError: artifacts without a kernel.
        """
        disk = f"latest-guest-image-{self.guest}"
        kernel, initrd = f"latest-guest-kernel-{self.guest}", f"latest-guest-initrd-{self.guest}"
        if disk not in self.artifacts:
            built = build_image(RECIPES[self.guest], self._options, progress=self.progress)
            return built.disk, built.kernel, built.initrd, built.default_cmdline
        if kernel not in self.artifacts:
            raise UsageError(f"artifacts.yaml has {disk} and no {kernel}", hint="add the kernel that the guests boot")
        own_initrd = self.artifacts[initrd].get() if initrd in self.artifacts else None
        return self.artifacts[disk].get(), self.artifacts[kernel].get(), own_initrd, None

    @property
    def _options(self) -> BuildOptions:
        """On hardware our key goes into the image: systemd takes none from the VMM there, which it does not trust."""
        return BuildOptions(ssh_key=authorized_keys(())) if self.hardware else BuildOptions()

    def prepare(self) -> None:
        """Have image and firmware at hand, which may take a build.

        Raises:
            PlatformMissing: such an image cannot be had here.
            UsageError, SystemFault, NetworkFault: as ``Artifact.get`` and ``build_image``.
        """
        try:
            _ = self.image, self.firmware
        except TdxStackError as fault:
            # The fault's own hint comes first.
            other = f"or name an image as latest-guest-image-{self.guest} in artifacts.yaml"
            fault.hint = f"{fault.hint}; {other}" if fault.hint else other
            raise

    def check_artifacts(self) -> None:
        """Take what the guests boot from the artifacts, if it is there, before anything runs.

        Raises:
            UsageError, SystemFault, NetworkFault: as ``Artifact.get``.
        """
        if f"latest-guest-image-{self.guest}" in self.artifacts:
            _ = self.image

    @cached_property
    def firmware(self) -> Path:
        """The firmware that TDs boot."""
        return default_firmware(self.progress).path

    def missing(self, requirement: str) -> str | None:
        """Why a requirement does not hold here, or None if it does."""
        return REQUIREMENTS[requirement](self)


def _hardware(env: Environment) -> str | None:
    return None if env.hardware else f"needs TDX hardware; {env.platform_name} is a software platform"


def _software(env: Environment) -> str | None:
    return "is about the software platform" if env.hardware else None


def _accelerated(env: Environment) -> str | None:
    return "needs KVM; here CPUs are emulated" if env.emulated else None


def _amx(env: Environment) -> str | None:
    return None if env.dut.support_amx() else "needs a CPU with AMX (flag amx_tile)"


def _ai_image(env: Environment) -> str | None:
    name = f"latest-ai-image-{env.guest}"
    return None if name in env.artifacts else f"needs the artifact {name}, an image with the models"


def _vsock(env: Environment) -> str | None:
    return None if HostFiles().exists("/dev/vhost-vsock") else "needs /dev/vhost-vsock (modprobe vhost_vsock)"


def _outside(env: Environment) -> str | None:
    return None if env.outside else "needs an URL that guests may fetch (--outside URL)"


def _td_saving(env: Environment) -> str | None:
    return "a TD's private memory on hardware is not the host's to save" if env.hardware else None


#: What a test may state with ``requires``: name -> why it does not hold, or None.
REQUIREMENTS: dict[str, Callable[[Environment], str | None]] = {
    "tdx-hardware": _hardware,
    "software-platform": _software,
    "kvm": _accelerated,
    "amx": _amx,
    "ai-image": _ai_image,
    "vhost-vsock": _vsock,
    "outside": _outside,
    "td-saving": _td_saving,
}


def check_platform(name: str | None) -> None:
    """Refuse a platform that is not there, before anything runs.

    Raises:
        PlatformMissing: it is not there.
    """
    try:
        open_platform(name)
    except PlatformMissing as error:
        raise PlatformMissing(error.message, hint="tdxctl platform list") from error
