"""PyCloudStack: machines, images, clusters and hosts as the white paper's section 3.5.2 names them.

The modules have the names of the original, so that its programs run with the import root changed:
``from tdxstack.cloud.vmguest import VMGuestFactory``. Everything here is a thin layer over ``vm``, ``image``,
``platform`` and ``system``; what a machine cannot do raises an error instead of being ignored.
The classes and the constants are to be had from here too: ``from tdxstack.cloud import VMGuestFactory``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tdxstack.cloud.artifacts import Artifact as Artifact
    from tdxstack.cloud.artifacts import ArtifactManifest as ArtifactManifest
    from tdxstack.cloud.cluster import Cluster as Cluster
    from tdxstack.cloud.cmdrunner import CMDRunner as CMDRunner
    from tdxstack.cloud.cmdrunner import NativeCmdRunner as NativeCmdRunner
    from tdxstack.cloud.cmdrunner import SSHCmdRunner as SSHCmdRunner
    from tdxstack.cloud.dut import DUT as DUT
    from tdxstack.cloud.msr import MSR as MSR
    from tdxstack.cloud.registry import Registry as Registry
    from tdxstack.cloud.virtxml import VirtXml as VirtXml
    from tdxstack.cloud.vmguest import VMGuest as VMGuest
    from tdxstack.cloud.vmguest import VMGuestFactory as VMGuestFactory
    from tdxstack.cloud.vmimg import VMImage as VMImage
    from tdxstack.cloud.vmm import VMMBase as VMMBase
    from tdxstack.cloud.vmm import VMMLibvirt as VMMLibvirt
    from tdxstack.cloud.vmm import VMMQemu as VMMQemu
    from tdxstack.cloud.vmparam import KernelCmdline as KernelCmdline
    from tdxstack.cloud.vmparam import VMSpec as VMSpec

#: class -> the module that has it; imported when it is asked for, since some need packages of their own.
_CLASSES = {
    "Artifact": "artifacts",
    "ArtifactManifest": "artifacts",
    "CMDRunner": "cmdrunner",
    "Cluster": "cluster",
    "DUT": "dut",
    "KernelCmdline": "vmparam",
    "MSR": "msr",
    "NativeCmdRunner": "cmdrunner",
    "Registry": "registry",
    "SSHCmdRunner": "cmdrunner",
    "VMGuest": "vmguest",
    "VMGuestFactory": "vmguest",
    "VMImage": "vmimg",
    "VMMBase": "vmm",
    "VMMLibvirt": "vmm",
    "VMMQemu": "vmm",
    "VMSpec": "vmparam",
    "VirtXml": "virtxml",
}


def __getattr__(name: str) -> Any:
    place = _CLASSES.get(name, "vmparam" if name.isupper() else None)
    found = getattr(importlib.import_module(f"{__name__}.{place}"), name, None) if place is not None else None
    if found is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_CLASSES})
