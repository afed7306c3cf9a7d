import numpy as np
import pytest
import torch

from raypurify.csc import tikhonov_split
from raypurify.errors import DataError


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("height", "width", "pad"), [(32, 32, 16), (17, 24, 16), (5, 9, 16), (1, 1, 3), (20, 31, 0)])
def test_equals_sporco(dtype, height, width, pad):
    from sporco.signal import tikhonov_filter

    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0), dtype=dtype)
    expected = [tikhonov_filter(x.permute(1, 2, 0).numpy(), 5.0, pad) for x in images]
    tolerance = 1e-6 if dtype == torch.float32 else 1e-13
    for part, name in enumerate(("low", "high")):
        ours = tikhonov_split(images, 5.0, pad)[part]
        assert ours.dtype == dtype
        theirs = np.stack([e[part].transpose(2, 0, 1) for e in expected])
        np.testing.assert_allclose(ours.numpy(), theirs, atol=tolerance, err_msg=name)


def test_parts_add_up_and_lmbda_zero_keeps_everything_low():
    images = torch.rand(3, 3, 12, 15)
    low, high = tikhonov_split(images)
    torch.testing.assert_close(low + high, images, atol=1e-7, rtol=0)
    assert tikhonov_split(images, lmbda=0.0)[1].abs().max() < 1e-6


def test_larger_lmbda_moves_energy_to_the_high_part():
    images = torch.rand(1, 3, 16, 16)
    energies = [tikhonov_split(images, lmbda)[1].norm() for lmbda in (0.1, 1.0, 5.0, 50.0)]
    assert energies == sorted(energies)


def test_gradient():
    images = torch.rand(1, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: tikhonov_split(x, 2.0, 3), images)


@pytest.mark.parametrize(
    ("images", "arguments", "message"),
    [
        (torch.rand(3, 8, 8), {}, "expected"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), {}, "uint8"),
        (torch.full((1, 3, 8, 8), float("nan")), {}, "NaN"),
        (torch.rand(1, 3, 8, 8), {"lmbda": -1.0}, "lmbda"),
        (torch.rand(1, 3, 8, 8), {"pad": -1}, "pad"),
    ],
)
def test_refuses(images, arguments, message):
    with pytest.raises(DataError, match=message):
        tikhonov_split(images, **arguments)
