"""PyCloudStack: machines, images, clusters and hosts as the white paper's section 3.5.2 names them.

The modules have the names of the original, so that its programs run with the import root changed:
``from tdxstack.cloud.vmguest import VMGuestFactory``. Everything here is a thin layer over ``vm``, ``image``,
``platform`` and ``system``; what a machine cannot do raises an error instead of being ignored.
The classes are to be had from here too: ``from tdxstack.cloud import VMGuestFactory``.
"""

from __future__ import annotations

import importlib
from typing import Any

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
    if name not in _CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_CLASSES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_CLASSES})
