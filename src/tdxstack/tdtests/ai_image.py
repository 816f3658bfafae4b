"""Models of the AI image, run in a machine: what throughput they reach."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tdxstack.cloud.vmguest import VMGuestFactory
from tdxstack.cloud.vmparam import VMSpec
from tdxstack.tdtests.environment import Environment

SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Workload:
    """A command in the guest, and the pattern of its output whose first group is the throughput."""

    command: str
    pattern: str


def throughput(env: Environment, vmtype: str, workload: Workload) -> float:
    """What ``workload`` reaches in a large machine of ``vmtype`` that boots the artifact ``latest-ai-image``."""
    disk = env.artifacts[f"latest-ai-image-{env.guest}"].get()
    with VMGuestFactory(disk, env.image[1], initrd=env.image[2]) as factory:
        guest = factory.new_vm(vmtype, VMSpec.model_large(), auto_start=True)
        guest.wait_for_ssh_ready()
        runner = guest.ssh_run(workload.command, timeout=SECONDS)
    assert runner.retcode == 0, "\n".join(runner.stderr[-20:])
    match = re.search(workload.pattern, "\n".join(runner.stdout))
    assert match is not None, "\n".join(runner.stdout[-20:])
    return float(match[1])
