import numpy as np
import pytest
import torch

from raypurify.csc import learn_dictionary, solve_cbpdn
from raypurify.csc.learning import random_patches
from raypurify.errors import DataError

each_engine = pytest.mark.parametrize("engine", ["torch", "sporco"])


@each_engine
def test_lowers_the_objective_of_held_out_images(engine, high_parts):
    train, held_out = high_parts[:16], high_parts[16:]
    start = torch.from_numpy(random_patches(train.numpy(), 12, 6, np.random.default_rng(0)))
    learned = learn_dictionary(train, atoms=12, size=6, passes=2, engine=engine)
    before, after = (solve_cbpdn(d, held_out).objective.mean() for d in (start, learned))
    assert after < 0.97 * before


def test_not_above_sporcos_own_learner_on_held_out_images(high_parts):
    tiles = high_parts[..., :24, :24].double().unfold(2, 12, 12).unfold(3, 12, 12)
    tiles = tiles.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, 12, 12)
    train, held_out = tiles[:64], tiles[64:]
    start = random_patches(train.float().numpy(), 12, 5, np.random.default_rng(0))
    learned = learn_dictionary(train, atoms=12, size=5, engine="torch")
    ours, peer = (solve_cbpdn(d.double(), held_out).objective.mean() for d in (learned, sporco_learned(start, train)))
    assert ours <= peer


def sporco_learned(start, images):
    """One pass of sporco's own learner from the same atoms."""
    from sporco.dictlrn.onlinecdl import OnlineConvBPDNDictLearn

    options = OnlineConvBPDNDictLearn.Options({"CBPDN": {"RelStopTol": 5e-3, "MaxMainIter": 200}})
    learner = OnlineConvBPDNDictLearn(start.transpose(2, 3, 1, 0), 0.2, options, dimK=0)
    for image in images.float().numpy():
        learner.solve(image.transpose(1, 2, 0), dimK=0)
    return torch.from_numpy(learner.getdict().squeeze(3).transpose(3, 2, 0, 1).copy())


@each_engine
def test_shape_norm_determinism_and_seed(engine, high_parts):
    first, again, other = (
        learn_dictionary(high_parts[:5], atoms=5, size=7, seed=seed, engine=engine) for seed in (3, 3, 4)
    )
    assert first.shape == (5, 3, 7, 7)
    assert first.dtype == torch.float32
    torch.testing.assert_close(torch.linalg.vector_norm(first, dim=(1, 2, 3)), torch.ones(5), atol=1e-6, rtol=0)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@each_engine
def test_progress_counts_every_image(engine, high_parts):
    seen = []
    learn_dictionary(
        high_parts[:5],
        atoms=3,
        size=5,
        passes=2,
        engine=engine,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(i, 10) for i in range(1, 11)]


@each_engine
def test_copies_of_one_image_and_one_single_image(engine, high_parts):
    for images in (high_parts[:1].repeat(3, 1, 1, 1), high_parts[:1]):
        learned = learn_dictionary(images, atoms=4, size=5, engine=engine)
        assert torch.isfinite(learned).all()


@each_engine
@pytest.mark.parametrize("side", [16, 64])
def test_mostly_flat_images(engine, side, high_parts):
    # Images of 64×64 are steps of their own, so that most steps find nothing to learn.
    images = torch.zeros(6, 3, side, side)
    images[0, :, :6, :6] = high_parts[0, :, :6, :6]
    learned = learn_dictionary(images, atoms=6, size=5, engine=engine)
    torch.testing.assert_close(torch.linalg.vector_norm(learned, dim=(1, 2, 3)), torch.ones(6), atol=1e-6, rtol=0)


def test_a_weight_above_every_correlation_leaves_the_patches(high_parts):
    images = high_parts[:6]
    start = torch.from_numpy(random_patches(images.numpy(), 4, 5, np.random.default_rng(0)))
    torch.testing.assert_close(learn_dictionary(images, atoms=4, size=5, lmbda=1e4, engine="torch"), start)


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_the_scale_of_images_does_not_matter(factor, high_parts):
    images = high_parts[:8]
    learned = learn_dictionary(images, atoms=4, size=5, engine="torch")
    scaled = learn_dictionary(factor * images, atoms=4, size=5, lmbda=0.2 * factor, engine="torch")
    torch.testing.assert_close(learned, scaled, atol=1e-3, rtol=0)


@each_engine
@pytest.mark.parametrize(("height", "width"), [(11, 14), (4, 9), (65, 70)])
def test_float64_and_odd_sizes(engine, height, width):
    images = torch.randn(2, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    learned = learn_dictionary(images, atoms=4, size=4, engine=engine)
    assert learned.shape == (4, 3, 4, 4)
    assert torch.isfinite(learned).all()


@pytest.mark.parametrize(
    ("images", "settings", "message"),
    [
        (torch.zeros(3, 3, 8, 8), {"size": 4}, "nothing to learn"),
        (torch.ones(3, 3, 8, 8) * torch.tensor([0.1, 0.5, 0.9])[:, None, None, None], {"size": 4}, "nothing to learn"),
        (torch.zeros(0, 3, 8, 8), {"size": 4}, "nothing to learn"),
        (torch.full((1, 3, 8, 8), float("nan")), {"size": 4}, "NaN"),
        (torch.rand(1, 8, 8), {"size": 4}, "images"),
        (torch.rand(1, 3, 8, 8), {"size": 9}, "smaller"),
        (torch.rand(1, 3, 8, 8), {"atoms": 1, "size": 4}, "atoms"),
        (torch.rand(1, 3, 8, 8), {"size": 4, "lmbda": 0.0}, "lmbda"),
        (torch.rand(1, 3, 8, 8), {"size": 4, "passes": 0}, "passes"),
        (torch.rand(1, 3, 8, 8), {"size": 4, "engine": "numpy"}, "choose 'torch' or 'sporco'"),
    ],
)
def test_refuses(images, settings, message):
    with pytest.raises(DataError, match=message):
        learn_dictionary(images, **settings)
