import os
import subprocess
import sys


def test_kernels_work_where_no_cache_can_be_written():
    program = (
        "from numba.core import caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "from raypurify.csc._cd_kernels import block_side\n"
        "print(block_side(100))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip() == "34", done.stderr


def test_processes_may_compile_into_one_cache_at_the_same_time(tmp_path):
    program = (
        "import torch\n"
        "from raypurify.csc import solve_cbpdn\n"
        "generator = torch.Generator().manual_seed(0)\n"
        "atoms, signal = (torch.randn(*shape, generator=generator) for shape in ((4, 3, 3, 3), (1, 3, 9, 9)))\n"
        "print(float(solve_cbpdn(atoms, signal, method='cd').objective))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", program]
    racing = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    answers = [process.communicate()[0] for process in racing]
    answers.append(subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout)
    assert len(set(answers)) == 1
    assert float(answers[0]) > 0
    assert list(tmp_path.rglob("*.nbc"))
