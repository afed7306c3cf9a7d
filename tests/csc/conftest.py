"""What the tests of this room share: real high parts, and where kernels in Triton run."""

import importlib.util
import io
import os

import pytest
import torch

from raypurify.csc import tikhonov_split

# Triton looks at it when a module of kernels is imported: without a GPU they run in its interpreter, on CPU tensors.
if importlib.util.find_spec("triton") and not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def device():
    """Where the kernels run in this session."""
    pytest.importorskip("triton", reason="the GPU kernels need the package triton")
    return torch.device("cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda")


@pytest.fixture
def cuda():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device("cuda")


@pytest.fixture(scope="session")
def high_parts(data_dir):
    """High parts of 24 CIFAR-10 cats, (24, 3, 32, 32) float32."""
    import numpy as np
    import pyarrow.parquet as pq
    from PIL import Image

    table = pq.read_table(data_dir / "cifar10" / "train-0.parquet", filters=[("label", "==", 3)]).slice(0, 24)
    pixels = [np.asarray(Image.open(io.BytesIO(b.as_py())).convert("RGB")) for b in table["image"]]
    return tikhonov_split(torch.tensor(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255)[1]
