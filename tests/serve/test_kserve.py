"""The endpoint as KServe's own client sees it, which runs unchanged in an environment of its own.

KServe wants other versions of protobuf and pandas than Ray. Its environment, some 450 MB, is made below
``$XDG_CACHE_HOME`` once and kept there.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

from serve.endpoint import TOKEN
from serve.test_infer import IMAGES, OUTPUTS, check_outputs

KSERVE = "0.21.0"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "raypurify-tests"


@pytest.fixture(scope="module")
def python():
    """A Python with KServe."""
    version = ".".join(map(str, sys.version_info[:2]))
    folder = CACHE / f"kserve-{KSERVE}-python-{version}"
    interpreter, whole = folder / "bin" / "python", folder / "whole"
    if not whole.exists():
        venv.create(folder, clear=True, with_pip=True)
        install = [interpreter, "-m", "pip", "install", "--quiet", "--retries=1", f"kserve=={KSERVE}"]
        done = subprocess.run(install, capture_output=True, text=True)
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["no reason"])[-1]
            pytest.skip(f"kserve {KSERVE} cannot be installed beside this environment: {why}")
        whole.touch()
    return interpreter


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kserves_client_runs_unchanged(python, url, bundle, tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    script = Path(__file__).with_name("kserve_client.py")
    words = [python, script, url, TOKEN, tmp_path / "images.npy", tmp_path / "out.npz"]
    # Nothing of this environment reaches that one.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(tmp_path / "out.npz") as found:
        for kind in ("json", "binary"):
            outputs = {name: found[f"{kind}/{name}"] for name in OUTPUTS}
            assert len([name for name in found if name.startswith(kind)]) == len(OUTPUTS)
            check_outputs(bundle, outputs)
