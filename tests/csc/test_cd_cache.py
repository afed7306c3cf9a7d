import os
import subprocess
import sys


def test_kernels_work_where_no_cache_can_be_written():
    program = (
        "from numba.core import caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "from raypurify.csc._cd_kernels import block\n"
        "print(block(100))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip() == "34", done.stderr
