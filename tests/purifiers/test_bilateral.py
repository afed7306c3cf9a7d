"""The bilateral filter against its formula, and what it is for."""

import math

import pytest
import torch

from raypurify.purifiers import Bilateral


def test_it_is_the_weighted_mean_of_the_formula():
    images = torch.rand(1, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    done = Bilateral(radius=2, sigma_space=1.2, sigma_colour=0.3).transform(images)[0]
    image = images[0]
    for y, x in ((0, 0), (3, 4), (5, 6), (2, 6)):
        weights, total = 0.0, torch.zeros(3)
        for down in range(-2, 3):
            for along in range(-2, 3):
                # The border is repeated outwards.
                other = image[:, min(max(y + down, 0), 5), min(max(x + along, 0), 6)]
                unlike = float((other - image[:, y, x]).square().sum())
                weight = math.exp(-(down**2 + along**2) / (2 * 1.2**2) - unlike / (2 * 0.3**2))
                weights, total = weights + weight, total + weight * other
        torch.testing.assert_close(done[:, y, x], total / weights)


def test_noise_goes_and_an_edge_stays():
    edge = torch.full((1, 3, 20, 20), 0.2)
    edge[..., 10:] = 0.8
    noisy = edge + 0.03 * torch.randn(edge.shape, generator=torch.Generator().manual_seed(0))
    done = Bilateral(sigma_colour=0.2).transform(noisy)
    assert (done - edge).square().mean() < (noisy - edge).square().mean() / 3
    assert done[..., 9].max() < 0.3
    assert done[..., 10].min() > 0.7


@pytest.mark.parametrize("large", [1e3])
def test_of_any_colour_it_is_a_gaussian_blur(large):
    images = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    steps = torch.exp(-torch.arange(-2.0, 3).square() / (2 * 1.5**2))
    kernel = (steps[:, None] * steps / steps.sum() ** 2).expand(3, 1, 5, 5)
    blurred = torch.nn.functional.conv2d(images, kernel, groups=3)
    torch.testing.assert_close(Bilateral(sigma_colour=large).transform(images)[..., 2:-2, 2:-2], blurred)
