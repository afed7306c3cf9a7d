"""W-NFGA on a sparse front end: forward it is what is deployed, backward the gradient of a stand-in."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from raypurify.attacks.front_end import near_full_gradient, quantised_through
from raypurify.evaluation.threat_model import differentiated
from raypurify.nets.front_end import FrontEnd
from raypurify.purifiers.transform import Transform, generator_of


@dataclass(frozen=True)
class Front(Transform):
    """A sparse front end with random weights as a purifier."""

    seed: int = 0
    front_end: FrontEnd = field(kw_only=True)

    @property
    def encoder(self):
        return self.front_end.encoder

    @property
    def decoder(self):
        return self.front_end.decoder

    def draws(self, images: Tensor) -> Tensor:
        pixels = images.detach().cpu().numpy()
        return torch.from_numpy(np.array([generator_of(one, self.seed).integers(2**62) for one in pixels]))

    def transform(self, images: Tensor) -> Tensor:
        return self.front_end(images, self.draws(images))


def front_of(**settings):
    torch.manual_seed(0)
    network = FrontEnd(**{"atoms": 40, "top": 20, "dropout": 0.5, "eps": 0.04, "channels": (8, 6)} | settings)
    network.encoder.fill(torch.randn(40, 3, 4, 4))
    return Front(front_end=network.eval().requires_grad_(False))


def classifier(x: Tensor) -> Tensor:
    weight = torch.randn(2, x[0].numel(), generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    return (x.flatten(1) @ weight.T).tanh()


@pytest.fixture
def images():
    return torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(1))


def differences(function, images: Tensor, count: int = 6, step: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Slopes of a function of one value along some random directions in double precision, and these directions."""
    directions = torch.randn(count, *images.shape, generator=torch.Generator().manual_seed(5), dtype=torch.double)
    x = images.double()
    slopes = [(function(x + step * one) - function(x - step * one)) / (2 * step) for one in directions]
    return torch.stack(slopes), directions


def stand_in(encoder, kept: Tensor, images: Tensor, sigma: float | None) -> Tensor:
    """What the backward pass differentiates, in double precision, by the words of the paper."""
    values = conv2d(images, encoder.dictionary.double(), stride=encoder.stride) * kept
    if sigma is None or not encoder.quantise:
        return values
    norm = encoder.dictionary.double().abs().sum((1, 2, 3)).view(-1, 1, 1)
    jump = encoder.beta * encoder.eps * norm
    return 0.5 * norm * (torch.tanh((values - jump) / sigma) + torch.tanh((values + jump) / sigma))


@pytest.mark.parametrize("sigma", [None, 0.25, 0.05])
def test_the_gradient_of_the_code_is_that_of_its_stand_in_by_finite_differences(sigma, images):
    purifier = front_of()
    encoder, seeds = purifier.encoder, purifier.draws(images)
    x = images.clone().requires_grad_()
    survivors = encoder.survivors(x, seeds)
    code = quantised_through(encoder, survivors.values, sigma)
    assert torch.equal(code, encoder.code(images, seeds))
    weight = torch.randn(code.shape, generator=torch.Generator().manual_seed(4))
    (gradient,) = torch.autograd.grad((weight * code).sum(), x)

    def surrogate(y):
        return (weight * stand_in(encoder, survivors.kept, y, sigma)).sum()

    slopes, directions = differences(surrogate, images)
    torch.testing.assert_close((directions * gradient).flatten(1).sum(1), slopes, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("left_out", [{}, {"quantise": False}, {"dropout": 0.0}, {"top": None}], ids=str)
def test_the_attacker_has_the_gradient_of_all_but_the_quantisation(left_out, smooth, images):
    purifier = front_of(**left_out)
    network, model = purifier.front_end, near_full_gradient(classifier, purifier, smooth)
    deployed = classifier(purifier.purify(images).images)
    x = images.clone().requires_grad_()
    logits = model(x)
    assert torch.equal(model(images), deployed)
    torch.testing.assert_close(logits, deployed)
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), x)
    # What decoder and classifier say of the code that goes forward, handed on by the stand-in.
    kept = network.encoder.survivors(images, purifier.draws(images)).kept
    code = network.encoder.code(images, purifier.draws(images)).requires_grad_()
    decoded = classifier(network.decoder(code, images.shape[-2:]))
    (of_code,) = torch.autograd.grad(decoded[:, 0].sum(), code)
    sigma = 0.25 if smooth else None
    slopes, directions = differences(
        lambda y: (of_code * stand_in(network.encoder, kept, y, sigma)).sum(), images, step=1e-7
    )
    assert gradient.abs().amax() > 0
    torch.testing.assert_close((directions * gradient).flatten(1).sum(1), slopes, rtol=1e-3, atol=1e-5)


def test_what_does_not_survive_hands_nothing_on_and_what_is_below_its_threshold_does(images):
    purifier = front_of(eps=0.2)
    encoder = purifier.encoder
    survivors = encoder.survivors(images, purifier.draws(images))
    projections = survivors.projections.detach().requires_grad_()
    for sigma in (None, 2.0):
        code = quantised_through(encoder, projections * survivors.kept, sigma)
        (gradient,) = torch.autograd.grad(code.sum(), projections)
        below = survivors.kept & (code == 0)
        assert below.any()
        assert (gradient[below] > 0).all()
        assert (gradient[~survivors.kept] == 0).all()


def test_a_front_end_is_passed_so():
    assert [differentiated(knows, front_of()) for knows in ("nfga", "nfga-smooth", "solver")] == [
        "nfga",
        "nfga-smooth",
        "nfga",
    ]
