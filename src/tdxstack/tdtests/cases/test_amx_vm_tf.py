"""TensorFlow's DIEN model with AMX in a machine (white paper, section 3.5.2.3, example 3)."""

from __future__ import annotations

import pytest

from tdxstack.cloud.vmparam import VM_TYPES
from tdxstack.tdtests.ai_image import Workload, throughput
from tdxstack.tdtests.environment import Environment

pytestmark = [pytest.mark.category("interoperability"), pytest.mark.requires("amx", "ai-image")]
WORKLOAD = Workload(
    command=(
        "cd /root/models-2.5.0 && DNNL_MAX_CPU_ISA=AVX512_CORE_AMX OMP_NUM_THREADS=16 "
        "KMP_AFFINITY=granularity=fine,verbose,compact python3 ./benchmarks/launch_benchmark.py --model-name dien "
        "--mode inference --precision bfloat16 --framework tensorflow --data-location /root/dien "
        "--exact-max-length=100 --num-inter-threads 1 --num-intra-threads 16 --batch-size 8 --graph-type=static "
        "--in-graph /root/dien_fp32_static_rnn_graph.pb --benchmark-only --verbose --"
    ),
    pattern=r"Approximate accelerator performance in recommendations/second is (\d+\.\d+)",
)


@pytest.mark.parametrize("vmtype", VM_TYPES)
def test_amx_vm_tf(env: Environment, vmtype: str) -> None:
    assert throughput(env, vmtype, WORKLOAD) > 0
