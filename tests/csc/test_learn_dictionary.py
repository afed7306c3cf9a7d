import pytest
import torch

from raypurify.csc import learn_dictionary, solve_cbpdn
from raypurify.errors import DataError


def test_lowers_the_objective_of_held_out_images(high_parts):
    import numpy as np

    from raypurify.csc.learning import _random_patches

    train, held_out = high_parts[:16], high_parts[16:]
    start = torch.from_numpy(_random_patches(train.numpy(), 12, 6, np.random.default_rng(0)))
    learned = learn_dictionary(train, atoms=12, size=6, passes=2)
    before, after = (solve_cbpdn(d, held_out).objective.mean() for d in (start, learned))
    assert after < 0.99 * before


def test_shape_norm_determinism_and_seed(high_parts):
    first, again, other = (learn_dictionary(high_parts[:4], atoms=5, size=7, seed=s) for s in (3, 3, 4))
    assert first.shape == (5, 3, 7, 7)
    assert first.dtype == torch.float32
    torch.testing.assert_close(torch.linalg.vector_norm(first, dim=(1, 2, 3)), torch.ones(5), atol=1e-6, rtol=0)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_progress_counts_every_image(high_parts):
    seen = []
    learn_dictionary(high_parts[:3], atoms=3, size=5, passes=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 6) for i in range(1, 7)]


def test_copies_of_one_image_and_one_single_image(high_parts):
    for images in (high_parts[:1].repeat(3, 1, 1, 1), high_parts[:1]):
        learned = learn_dictionary(images, atoms=4, size=5)
        assert torch.isfinite(learned).all()


def test_mostly_flat_images(high_parts):
    images = torch.zeros(6, 3, 16, 16)
    images[0, :, :6, :6] = high_parts[0, :, :6, :6]
    learned = learn_dictionary(images, atoms=6, size=5)
    torch.testing.assert_close(torch.linalg.vector_norm(learned, dim=(1, 2, 3)), torch.ones(6), atol=1e-6, rtol=0)


def test_float64_and_odd_sizes():
    images = torch.randn(2, 3, 11, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert learn_dictionary(images, atoms=4, size=4).shape == (4, 3, 4, 4)


@pytest.mark.parametrize(
    ("images", "settings", "message"),
    [
        (torch.zeros(3, 3, 8, 8), {"size": 4}, "nothing to learn"),
        (torch.ones(3, 3, 8, 8) * torch.tensor([0.1, 0.5, 0.9])[:, None, None, None], {"size": 4}, "nothing to learn"),
        (torch.zeros(0, 3, 8, 8), {"size": 4}, "nothing to learn"),
        (torch.full((1, 3, 8, 8), float("nan")), {"size": 4}, "NaN"),
        (torch.rand(1, 1, 8, 8), {"size": 4}, "images"),
        (torch.rand(1, 3, 8, 8), {"size": 9}, "smaller"),
        (torch.rand(1, 3, 8, 8), {"atoms": 1, "size": 4}, "atoms"),
        (torch.rand(1, 3, 8, 8), {"size": 4, "lmbda": 0.0}, "lmbda"),
        (torch.rand(1, 3, 8, 8), {"size": 4, "passes": 0}, "passes"),
    ],
)
def test_refuses(images, settings, message):
    with pytest.raises(DataError, match=message):
        learn_dictionary(images, **settings)
