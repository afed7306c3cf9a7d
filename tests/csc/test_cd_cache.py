import os
import subprocess
import sys


def test_kernels_work_where_no_cache_can_be_written():
    program = (
        "from numba.core import caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "import numpy as np\n"
        "from raypurify.csc._cd_kernels import largest\n"
        "print(largest(np.array([1.0, 3.0, 9.0, 2.0], np.float32), 2, 1, 2))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip() == "9.0", done.stderr
