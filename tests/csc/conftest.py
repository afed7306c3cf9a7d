"""Real high parts that the tests of this room share."""

import io

import pytest
import torch

from raypurify.csc import tikhonov_split


@pytest.fixture(scope="session")
def high_parts(data_dir):
    """High parts of 24 CIFAR-10 cats, (24, 3, 32, 32) float32."""
    import numpy as np
    import pyarrow.parquet as pq
    from PIL import Image

    table = pq.read_table(data_dir / "cifar10" / "train-0.parquet", filters=[("label", "==", 3)]).slice(0, 24)
    pixels = [np.asarray(Image.open(io.BytesIO(b.as_py())).convert("RGB")) for b in table["image"]]
    return tikhonov_split(torch.tensor(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255)[1]
