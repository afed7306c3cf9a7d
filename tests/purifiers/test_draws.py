"""Draws of random purifiers: other seeds, what draws nothing, and draws that are held while the image changes."""

import copy

import pytest
import torch

from raypurify.errors import ConfigError
from raypurify.purifiers import JPEG, Denoiser, PixelDeflection, Quilting, ResizePad, TotalVariation
from raypurify.purifiers.draws import check_draws, draws_of, is_random
from raypurify.purifiers.transform import held_draws

RANDOM = [ResizePad(smallest=0.5), PixelDeflection(), TotalVariation(steps=5), Denoiser(noise=0.1)]
named = pytest.mark.parametrize("purifier", RANDOM, ids=lambda one: type(one).__name__)


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@named
def test_draws_are_the_purifier_under_seeds_from_its_own_on(purifier, images):
    own, other = (one.purify(images).images for one in draws_of(purifier, 2))
    assert torch.equal(own, purifier.purify(images).images)
    assert not torch.equal(own, other)
    (skipped,) = draws_of(purifier, 1, 1)
    assert torch.equal(skipped.purify(images).images, other)
    check_draws("purifier 'p'", purifier)


def test_of_what_is_no_dataclass_the_draws_are_copies(images):
    class Plain:
        """As purifiers of bundles are: an object whose attributes may be set."""

        min_size = 1

        def __init__(self):
            self.seed, self.random = 4, True

        def purify(self, images):
            return ResizePad(smallest=0.5, seed=self.seed).purify(images)

    plain = Plain()
    first, second = draws_of(plain, 2)
    assert first is plain
    assert (plain.seed, second.seed) == (4, 5)
    still = copy.copy(plain)
    still.random = False
    assert (is_random(plain), is_random(still)) == (True, False)
    with pytest.raises(ConfigError, match="draws nothing"):
        check_draws("it", still)


@pytest.mark.parametrize("purifier", [JPEG(), Denoiser(), Quilting(), TotalVariation(drop=0, steps=2)], ids=str)
def test_of_what_draws_nothing_there_is_no_ensemble(purifier):
    with pytest.raises(ConfigError, match=r"purifier 'p' draws nothing at random as it is set.*leave ensemble out"):
        check_draws("purifier 'p'", purifier)


@pytest.mark.parametrize("purifier", [ResizePad(smallest=0.5), Denoiser(noise=0.3)], ids=lambda one: type(one).__name__)
def test_held_draws_do_not_change_with_the_image(purifier, images):
    def change():
        return (purifier.purify(images + 1e-4 * (images < 0.5)).images - purifier.purify(images).images).abs().mean()

    free = change()
    with held_draws():
        held = change()
        both = purifier.purify(images[[0, 0]] * torch.tensor([1, 0.999]).view(2, 1, 1, 1)).images
    assert held < 1e-3 < 0.01 < free
    assert (both[0] - both[1]).abs().mean() < 1e-2
    assert change() == free


@pytest.mark.parametrize(
    ("quiet", "drawing"),
    [
        (Denoiser(), Denoiser(noise=0.1)),
        (TotalVariation(drop=0, steps=5), TotalVariation(steps=5)),
        (Quilting(patches=500), Quilting(patches=500, neighbours=3)),
    ],
    ids=["Denoiser", "TotalVariation", "Quilting"],
)
def test_what_draws_nothing_as_it_is_set_says_so(quiet, drawing, images):
    for purifier in (quiet, drawing):
        one, other = (each.purify(images).images for each in draws_of(purifier, 2))
        assert is_random(purifier) == (not torch.equal(one, other)) == (purifier is drawing)
