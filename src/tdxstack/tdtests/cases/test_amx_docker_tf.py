"""TensorFlow's MobileNet V1 with AMX in a container in a machine."""

from __future__ import annotations

import pytest

from tdxstack.cloud.vmparam import VM_TYPES
from tdxstack.tdtests.ai_image import Workload, throughput
from tdxstack.tdtests.environment import Environment

pytestmark = [pytest.mark.category("interoperability"), pytest.mark.requires("amx", "ai-image")]
WORKLOAD = Workload(
    command=(
        "systemctl start docker && docker run --rm --network none -e DNNL_MAX_CPU_ISA=AVX512_CORE_AMX "
        "-v /root/models-2.5.0:/models -v /root/mobilenet:/data intel/intel-optimized-tensorflow:latest "
        "python3 /models/benchmarks/launch_benchmark.py --benchmark-only --framework tensorflow "
        "--model-name mobilenet_v1 --mode inference --precision bfloat16 --batch-size 1 "
        "--in-graph /data/mobilenet_v1_1.0_224_frozen.pb"
    ),
    pattern=r"Average Throughput: (\d+\.\d+) images/s",
)


@pytest.mark.parametrize("vmtype", VM_TYPES)
def test_amx_docker_tf(env: Environment, vmtype: str) -> None:
    assert throughput(env, vmtype, WORKLOAD) > 0
