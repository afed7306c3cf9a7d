"""Real images for this room: twelve of the example photographs, clean and attacked."""

import pytest
import torch

from raypurify.images import decode_image, to_float


@pytest.fixture(scope="session")
def photographs(request):
    """(12, 3, 32, 32) float32 in [0, 1]."""
    paths = sorted((request.config.rootpath / "examples" / "cifar10").glob("*/*.png"))[::4]
    return torch.stack([torch.from_numpy(to_float(decode_image(path.read_bytes()).pixels)) for path in paths])
