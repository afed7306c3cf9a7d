"""W-NFGA on a sparse front end: forward it is what is deployed, backward the gradient of a stand-in."""

import pytest
import torch
from pydantic import ValidationError
from small_bundles import write_front_end
from torch import Tensor
from torch.nn.functional import conv2d

from raypurify.attacks import FGSM
from raypurify.attacks.budget import eight_bit
from raypurify.attacks.front_end import near_full_gradient
from raypurify.errors import ConfigError
from raypurify.evaluation.specs import AttackSpec, PurifierSpec
from raypurify.evaluation.subjects import make_purifier
from raypurify.evaluation.threat_model import Draws, differentiated, perturb, sight
from raypurify.nets.front_gradient import decoded_through, quantised_through, smooth_step
from raypurify.purifiers.draws import check_draws, draws_of


@pytest.fixture(scope="module")
def front_of(tmp_path_factory):
    """Makes the purifier of a small bundle, with settings of the encoder as a grid says them."""
    bundle = write_front_end(tmp_path_factory.mktemp("front"))
    return lambda **settings: make_purifier("it", PurifierSpec(purifier="bundle", bundle=str(bundle), **settings))


def classifier(x: Tensor) -> Tensor:
    weight = torch.randn(2, x[0].numel(), generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    return (x.flatten(1) @ weight.T).tanh()


@pytest.fixture
def images():
    return torch.rand(2, 3, 16, 12, generator=torch.Generator().manual_seed(1))


def differences(function, images: Tensor, count: int = 6, step: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Slopes of a function of one value along some random directions in double precision, and these directions."""
    directions = torch.randn(count, *images.shape, generator=torch.Generator().manual_seed(5), dtype=torch.double)
    x = images.double()
    slopes = [(function(x + step * one) - function(x - step * one)) / (2 * step) for one in directions]
    return torch.stack(slopes), directions


def stand_in(encoder, kept: Tensor, images: Tensor, sigma: float | None) -> Tensor:
    """What the backward pass differentiates, in double precision, by the words of the paper."""
    return stepped(encoder, conv2d(images, encoder.dictionary.double(), stride=encoder.stride) * kept, sigma)


def stepped(encoder, values: Tensor, sigma: float | None) -> Tensor:
    if sigma is None or not encoder.quantise:
        return values
    norm = encoder.dictionary.double().abs().sum((1, 2, 3)).view(-1, 1, 1)
    jump = encoder.beta * encoder.eps * norm
    scale = sigma * norm
    return 0.5 * norm * (torch.tanh((values - jump) / scale) + torch.tanh((values + jump) / scale))


@pytest.mark.parametrize("sigma", [None, 0.25, 0.05])
def test_the_gradient_of_the_code_is_that_of_its_stand_in_by_finite_differences(sigma, front_of, images):
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
def test_the_attacker_has_the_gradient_of_all_but_the_quantisation(left_out, smooth, front_of, images):
    purifier = front_of(**left_out)
    model = near_full_gradient(classifier, purifier, smooth)
    deployed = classifier(purifier.purify(images).images)
    x = images.clone().requires_grad_()
    logits = model(x)
    assert torch.equal(model(images), deployed)
    torch.testing.assert_close(logits, deployed)
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), x)
    # What decoder and classifier say of the code that goes forward, handed on by the stand-in.
    kept = purifier.encoder.survivors(images, purifier.draws(images)).kept
    code = purifier.encoder.code(images, purifier.draws(images)).requires_grad_()
    decoded = classifier(purifier.decoder(code, images.shape[-2:]))
    (of_code,) = torch.autograd.grad(decoded[:, 0].sum(), code)
    sigma = 0.25 if smooth else None
    slopes, directions = differences(
        lambda y: (of_code * stand_in(purifier.encoder, kept, y, sigma)).sum(), images, step=1e-7
    )
    assert gradient.abs().amax() > 0
    torch.testing.assert_close((directions * gradient).flatten(1).sum(1), slopes, rtol=1e-3, atol=1e-5)


def test_what_does_not_survive_hands_nothing_on_and_what_is_below_its_threshold_does(front_of, images):
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


@pytest.mark.parametrize("sigma", [None, 0.25])
@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("top", [None, 1, 7, "all"])
def test_the_gradient_can_go_through_what_did_not_survive(top, dropped, sigma, front_of, images):
    """As in the authors' code: through the U largest, or all, and through what dropout dropped, each by the slope of
    quantisation where it stands, which is 0 for what does not go forward."""
    purifier = front_of()
    encoder, seeds = purifier.encoder, purifier.draws(images)
    x = images.clone().requires_grad_()
    made = decoded_through(encoder, purifier.decoder, x, seeds, sigma, top, dropped)
    torch.testing.assert_close(made, purifier.purify(images).images)
    weight = torch.randn(made.shape, generator=torch.Generator().manual_seed(4))
    (gradient,) = torch.autograd.grad((weight * made).sum(), x)

    code = encoder.code(images, seeds).requires_grad_()
    (of_code,) = torch.autograd.grad((weight * purifier.decoder(code, images.shape[-2:])).sum(), code)
    found = encoder.survivors(images, seeds)
    order = found.projections.abs().argsort(dim=1, descending=True).argsort(dim=1)
    count = {None: encoder.top, "all": len(encoder.dictionary)}.get(top, top)
    passed = (order < count) & (torch.ones_like(found.left) if dropped else found.left)
    values, still = found.values.double(), found.projections.double()

    def surrogate(y):
        moved = (conv2d(y, encoder.dictionary.double(), stride=encoder.stride) - still) * passed
        return (of_code * stepped(encoder, values + moved, sigma)).sum()

    slopes, directions = differences(surrogate, images)
    torch.testing.assert_close((directions * gradient).flatten(1).sum(1), slopes, rtol=1e-3, atol=1e-4)


def test_a_grid_says_which_gradient(front_of, images):
    network, labels = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(576, 2)), torch.zeros(2).long()
    found = {}
    for name, backward in {"plain": {}, "all": {"top": "all", "dropped": True}, "wide": {"sigma": 9.0}}.items():
        spec = AttackSpec(attack="pgd", eps=0.1, knows="nfga-smooth", **({"backward": backward} if backward else {}))
        assert ("backward" in spec.decisive) == bool(backward)
        generator = torch.Generator().manual_seed(0)
        known = front_of(), images, labels, generator, Draws(2), spec.backward
        found[name] = perturb(FGSM(eps=0.01), spec.knows, network, *known)
    assert not torch.equal(found["plain"], found["all"])
    assert not torch.equal(found["plain"], found["wide"])
    for wrong, message in (
        ({"knows": "bpda", "backward": {"top": 3}}, "backward is of nfga and nfga-smooth, and knows is bpda"),
        ({"knows": "nfga", "backward": {"sigma": 1.0}}, "backward.sigma is of the smooth step"),
        ({"knows": "nfga", "backward": {"top": 0}}, "backward.top"),
    ):
        with pytest.raises(ValidationError, match=message):
            AttackSpec(attack="pgd", eps=0.1, **wrong)


def test_the_smooth_gradient_is_equation_9_far_from_the_thresholds_too():
    """A coefficient of an ordinary image lies ten σ above its threshold and more."""
    norms, thresholds, sigma = torch.tensor(5.0), torch.tensor(0.5), 0.05
    x = torch.cat([torch.linspace(-7, 7, 57), thresholds[None], -thresholds[None]]).requires_grad_()
    (gradient,) = torch.autograd.grad(smooth_step(x, norms, thresholds, sigma).sum(), x)
    scale = sigma * norms.double()
    slopes = [1 / torch.cosh((x.detach().double() + sign * thresholds.double()) / scale) ** 2 for sign in (-1, 1)]
    torch.testing.assert_close(gradient.double(), norms / (2 * scale) * sum(slopes), rtol=1e-4, atol=0)


def test_a_front_end_is_passed_so(front_of):
    assert [differentiated(knows, front_of()) for knows in ("nfga", "nfga-smooth", "solver")] == [
        "nfga",
        "nfga-smooth",
        "nfga",
    ]


def test_its_draws_are_averaged_and_one_without_dropout_has_none(front_of, images):
    labels, network = torch.zeros(2, dtype=torch.int64), torch.nn.Flatten()
    purifier = front_of()
    seen = sight("nfga", network, purifier, images, labels, Draws(3, skip=2)).model(images)
    each = [network(eight_bit(front_of(seed=k).purify(images).images)) for k in (2, 3, 4)]
    torch.testing.assert_close(seen, torch.stack(each).mean(0))
    assert purifier.seed == 0
    check_draws("it", purifier)
    still = front_of(dropout=0.0)
    assert torch.equal(
        sight("nfga", network, still, images, labels).model(images), network(eight_bit(still.purify(images).images))
    )
    with pytest.raises(ConfigError, match="it draws nothing"):
        check_draws("it", still)
    assert len({one.seed for one in draws_of(still, 3)}) == 3
