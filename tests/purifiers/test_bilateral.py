"""The bilateral filter against its formula, and what it is for."""

import math

import pytest
import torch
from pydantic import ValidationError

from raypurify.errors import ConfigError
from raypurify.purifiers import Bilateral
from raypurify.regions import LEAST_SIGMA, RegionSettings


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


@pytest.mark.parametrize("name", ["sigma_space", "sigma_colour"])
def test_a_sigma_whose_square_float32_cannot_hold_is_refused(name):
    images = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    # So small a filter changes nothing.
    torch.testing.assert_close(Bilateral(**{name: LEAST_SIGMA}).transform(images), images)
    assert RegionSettings(**{name: LEAST_SIGMA})
    for wrong in (1e-25, 0.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match=f"{name}=.*need 0.001 to 1000"):
            Bilateral(**{name: wrong})
        with pytest.raises(ValidationError, match=name):
            RegionSettings(**{name: wrong})


@pytest.mark.parametrize("radius", [0, 17, 2.0])
def test_a_radius_that_is_no_whole_number_of_pixels_is_refused(radius):
    with pytest.raises(ConfigError, match=r"radius=.*need a whole number from 1 to 16"):
        Bilateral(radius=radius)
