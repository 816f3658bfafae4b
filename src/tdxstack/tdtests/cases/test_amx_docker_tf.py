"""TensorFlow's MobileNet V1 with AMX in a container in a machine."""

from __future__ import annotations

import re

import pytest

from tdxstack.cloud.vmguest import VMGuestFactory
from tdxstack.cloud.vmparam import VM_TYPES, VMSpec
from tdxstack.tdtests.environment import Environment

pytestmark = [pytest.mark.category("interoperability"), pytest.mark.requires("amx", "ai-image")]
SECONDS = 3600
COMMAND = (
    "systemctl start docker && docker run --rm --network none -e DNNL_MAX_CPU_ISA=AVX512_CORE_AMX "
    "-v /root/models-2.5.0:/models -v /root/mobilenet:/data intel/intel-optimized-tensorflow:latest "
    "python3 /models/benchmarks/launch_benchmark.py --benchmark-only --framework tensorflow "
    "--model-name mobilenet_v1 --mode inference --precision bfloat16 --batch-size 1 "
    "--in-graph /data/mobilenet_v1_1.0_224_frozen.pb"
)
PATTERN = r"Average Throughput: (\d+\.\d+) images/s"


@pytest.mark.parametrize("vmtype", VM_TYPES)
def test_amx_docker_tf(env: Environment, vmtype: str) -> None:
    disk = env.artifacts[f"latest-ai-image-{env.guest}"].get()
    with VMGuestFactory(disk, env.image[1], initrd=env.image[2]) as factory:
        guest = factory.new_vm(vmtype, VMSpec.model_large(), auto_start=True)
        guest.wait_for_ssh_ready()
        runner = guest.ssh_run(COMMAND, timeout=SECONDS)
    assert runner.retcode == 0, "\n".join(runner.stderr[-20:])
    match = re.search(PATTERN, "\n".join(runner.stdout))
    assert match is not None
    assert float(match[1]) > 0
