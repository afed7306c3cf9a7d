"""Every Triton kernel goes through the compiler for GPUs that are not there.

The interpreter, in which the other tests run the kernels, takes what no compiler does: other types, other shapes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Bytes of shared memory that a block can have on sm_80 and sm_90.
SHARED = {80: 163 << 10, 90: 227 << 10}


@pytest.mark.parametrize("capability", SHARED)
def test_every_kernel_compiles_without_spilling_registers(capability, tmp_path):
    pytest.importorskip("triton", reason="the GPU kernels need the package triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("ahead_of_time.py")
    run = subprocess.run(
        [sys.executable, script, str(capability)],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    kernels = [json.loads(line) for line in run.stdout.splitlines()]
    assert {one["kernel"] for one in kernels} == {"_renew", "_visit", "_screen", "_join", "_update", "_correct"}
    for one in kernels:
        assert one["spilled"] == 0, one
        assert one["shared"] <= SHARED[capability], one
