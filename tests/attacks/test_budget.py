import math

import pytest
import torch

from raypurify.attacks.budget import NORMS, project, random_in_ball, size, step_direction, stretch, unit_length
from raypurify.errors import ConfigError

hypothesis = pytest.importorskip("hypothesis")
given, settings, st = hypothesis.given, hypothesis.settings, hypothesis.strategies


def batch(seed: int, n: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(n, 3, 6, 4, generator=generator)
    return images, torch.randn(images.shape, generator=generator)


def test_size_matches_the_definitions():
    images, delta = batch(0)
    for i in range(len(images)):
        x, d = images[i].double().numpy().ravel(), delta[i].double().numpy().ravel()
        assert size(delta, images, "linf")[i].item() == pytest.approx(abs(d).max())
        assert size(delta, images, "l2")[i].item() == pytest.approx(math.sqrt((d**2).sum()))
        assert size(delta, images, "dissimilarity")[i].item() == pytest.approx(
            math.sqrt((d**2).sum() / (x**2).sum()), rel=1e-5
        )


@pytest.mark.parametrize("norm", NORMS)
@given(seed=st.integers(0, 10_000), eps=st.floats(0, 20), scale=st.floats(0, 5))
@settings(max_examples=40, deadline=None)
def test_projection_is_in_the_ball_idempotent_and_leaves_the_inside_alone(norm, seed, eps, scale):
    images, delta = batch(seed)
    delta = delta * scale
    projected = project(delta, images, eps, norm)
    assert (size(projected, images, norm) <= eps * (1 + 1e-5) + 1e-7).all()
    torch.testing.assert_close(project(projected, images, eps, norm), projected, rtol=1e-6, atol=1e-7)
    inside = size(delta, images, norm) <= eps
    assert torch.equal(projected[inside], delta[inside])


@pytest.mark.parametrize("norm", NORMS)
def test_projection_is_the_nearest_point_of_the_ball(norm):
    # Variational inequality of a projection onto a convex set: <δ − Πδ, z − Πδ> ≤ 0 for every z of the set.
    images, delta = batch(1, n=3)
    eps = 0.1
    projected = project(delta, images, eps, norm)
    assert (size(delta, images, norm) > eps).all()
    for seed in range(50):
        inside = random_in_ball(images, eps, norm, torch.Generator().manual_seed(seed))
        products = ((delta - projected) * (inside - projected)).flatten(1).sum(1)
        assert (products <= 1e-5).all()


@pytest.mark.parametrize("norm", NORMS)
def test_step_direction_maximises_the_linearised_loss_over_the_unit_ball(norm):
    images, grad = batch(2)
    step = unit_length(images, norm) * step_direction(grad, norm)
    torch.testing.assert_close(size(step, images, norm), torch.ones(5))
    gain = (step * grad).flatten(1).sum(1)
    for seed in range(50):
        other = project(
            torch.randn(images.shape, generator=torch.Generator().manual_seed(seed)) * 99, images, 1.0, norm
        )
        assert ((other * grad).flatten(1).sum(1) <= gain * (1 + 1e-5)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_zero_and_tiny_gradients(norm):
    _, grad = batch(3)
    assert torch.equal(step_direction(torch.zeros_like(grad), norm), torch.zeros_like(grad))
    # 1e-30 squared underflows in float32: the direction must survive.
    torch.testing.assert_close(step_direction(grad * 1e-30, norm), step_direction(grad, norm), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_random_start_fills_the_ball_and_follows_the_generator(norm):
    images, _ = batch(4, n=400)
    eps = 0.3
    start = random_in_ball(images, eps, norm, torch.Generator().manual_seed(7))
    sizes = size(start, images, norm)
    assert (sizes <= eps * (1 + 1e-5)).all()
    assert torch.equal(start, random_in_ball(images, eps, norm, torch.Generator().manual_seed(7)))
    assert not torch.equal(start, random_in_ball(images, eps, norm, torch.Generator().manual_seed(8)))
    assert start.mean().abs() < 0.01
    if norm != "linf":
        # Uniform by volume in d = 72 dimensions: (size / eps)^d is uniform on [0, 1].
        quantile = (sizes / eps).double() ** 72
        assert abs(quantile.mean().item() - 0.5) < 4 * math.sqrt(1 / 12 / 400)
        assert abs(quantile.std().item() - math.sqrt(1 / 12)) < 0.04


@pytest.mark.parametrize("norm", NORMS)
@given(seed=st.integers(0, 10_000), share=st.floats(0, 1.5))
@settings(max_examples=40, deadline=None)
def test_stretched_to_the_budget_along_the_direction_and_never_beyond(norm, seed, share):
    images, delta = batch(seed)
    eps = {"linf": 0.1, "l2": 0.5, "dissimilarity": 0.1}[norm]
    given = (images + share * eps * unit_length(images, norm) * delta / unit_size(delta, norm)).clamp(0, 1)
    stretched = stretch(given, images, eps, norm)
    sizes = size(stretched - images, images, norm)
    assert (sizes <= eps * (1 + 1e-5)).all()
    assert ((stretched >= 0) & (stretched <= 1)).all()
    moved = size(given - images, images, norm) > 1e-4
    assert (sizes[moved] >= 0.99 * eps).all()
    still = (given == images).flatten(1).all(1)
    assert torch.equal(stretched[still], images[still])
    assert ((stretched - images) * (given - images) >= 0).all()


def unit_size(delta: torch.Tensor, norm: str) -> torch.Tensor:
    """The size of each perturbation in the absolute unit of ``norm``, shaped to divide it."""
    return size(delta, delta, "linf" if norm == "linf" else "l2").reshape(-1, 1, 1, 1)


def test_black_image_cannot_be_perturbed_under_dissimilarity():
    black = torch.zeros(1, 3, 4, 4)
    delta = torch.ones_like(black)
    assert project(delta, black, 0.5, "dissimilarity").abs().max() == 0
    assert size(torch.zeros_like(black), black, "dissimilarity").item() == 0
    assert size(delta, black, "dissimilarity").item() == math.inf


def test_unknown_norm_is_refused_by_name():
    images, delta = batch(5)
    for call in (
        lambda: project(delta, images, 1.0, "l1"),
        lambda: size(delta, images, "l1"),
        lambda: step_direction(delta, "l1"),
        lambda: random_in_ball(images, 1.0, "l1"),
    ):
        with pytest.raises(ConfigError, match=r"'l1'.*linf, l2, dissimilarity"):
            call()
