"""Models of classifier ∘ purifier: what they compute, and that their gradients are what they say."""

import pytest
import torch

import raypurify
from raypurify.attacks import APGD, CW, PGD, DeepFool, Square
from raypurify.attacks.adaptive import (
    attack_choice,
    bpda,
    cluster_scores,
    eot,
    lowpass,
    smooth_surrogate,
    through_solver,
)
from raypurify.attacks.budget import size
from raypurify.attacks.joint import class_scores, joint
from raypurify.attacks.losses import margin
from raypurify.csc import tikhonov_split
from raypurify.errors import ConfigError
from raypurify.images import decode_image, to_float


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def purifier():
    return raypurify.load("cifar10")


@pytest.fixture(scope="module")
def images(request):
    """Two of the example photographs."""
    paths = sorted((request.config.rootpath / "examples" / "cifar10").glob("*/*.png"))[:2]
    return torch.stack([torch.from_numpy(to_float(decode_image(path.read_bytes()).pixels)) for path in paths])


def weights(x):
    return torch.randn(x.shape[1:], generator=generator(), dtype=x.dtype)


def bent(x):
    """A smooth classifier of two classes."""
    return torch.stack([(weights(x) * (3 * x).sin()).sum((1, 2, 3)), x.square().sum((1, 2, 3))], 1)


def gradient(model, images):
    x = images.clone().requires_grad_()
    return torch.autograd.grad(model(x)[:, 0].sum(), x)[0]


@pytest.mark.parametrize("surrogate", ["identity", "lowpass"])
def test_bpda_goes_forward_through_the_purifier(surrogate, purifier, images):
    model = bpda(purifier.network, lambda x: purifier.purify(x).images, surrogate)
    assert torch.equal(model(images), purifier.network(purifier.purify(images).images))


def test_bpda_goes_backward_through_the_surrogate(images):
    def purify(x):
        low, high = tikhonov_split(x)
        return low + (high.abs() > 0.02) * high

    at_purified = gradient(bent, purify(images))
    assert torch.equal(gradient(bpda(bent, purify), images), at_purified)

    low, high = tikhonov_split(images)
    kept = tikhonov_split(purify(images))[1]
    share = (kept * high).sum((1, 2, 3)) / high.square().sum((1, 2, 3))
    assert ((share > 0.2) & (share < 0.999)).all()
    x = images.clone().requires_grad_()
    low, high = tikhonov_split(x)
    (expected,) = torch.autograd.grad(low + share[:, None, None, None] * high, x, at_purified)
    torch.testing.assert_close(gradient(bpda(bent, purify, "lowpass"), images), expected)

    own = bpda(bent, purify, lambda x, purified: 2 * x)
    torch.testing.assert_close(gradient(own, images), 2 * at_purified)


def test_the_lowpass_surrogate_is_near_what_sparse_coding_does(purifier, images):
    purified = purifier.purify(images).images
    smooth = lowpass()(images, purified)
    low, _ = tikhonov_split(images)
    for other in (images, low):
        assert ((smooth - purified).flatten(1).norm(dim=1) < (other - purified).flatten(1).norm(dim=1)).all()


def test_bpda_finds_what_an_attack_on_the_purifier_alone_cannot(images):
    def purify(x):
        return (x * 8).round() / 8

    labels = bent(purify(images)).argmax(1)
    attack = PGD(eps=0.1)
    plain = attack(lambda x: bent(purify(x)), images, labels, loss=margin, generator=generator())
    adapted = attack(bpda(bent, purify), images, labels, loss=margin, generator=generator())
    with torch.no_grad():
        before, blind, after = (margin(bent(purify(x)), labels) for x in (images, plain, adapted))
    assert (after > before + 10).all()
    assert (after > blind).all()


def test_an_unknown_surrogate_is_refused():
    with pytest.raises(ConfigError, match="'cubic': choose one of identity, lowpass"):
        bpda(bent, lambda x: x, "cubic")


def test_eot_is_the_mean_and_has_the_mean_gradient(images):
    shifts = [0.0, 0.3, -0.1]
    draws = iter(shifts * 2)
    model = eot(bent, 3, lambda x: x + next(draws))
    torch.testing.assert_close(model(images), torch.stack([bent(images + s) for s in shifts]).mean(0))
    expected = torch.stack([gradient(lambda x, s=s: bent(x + s), images) for s in shifts]).mean(0)
    torch.testing.assert_close(gradient(model, images), expected)


def test_eot_of_probabilities_is_the_logits_of_the_ensemble(images):
    signs = iter([1.0, -1.0, 0.5])
    outputs = [0.01 * bent(sign * images) for sign in (1.0, -1.0, 0.5)]
    expected = torch.stack([output.softmax(1) for output in outputs]).mean(0)
    model = eot(lambda x: 0.01 * bent(x), 3, lambda x: next(signs) * x, average="probabilities")
    torch.testing.assert_close(model(images).softmax(1), expected)


def test_eot_sees_through_noise_that_hides_the_slope(images):
    noise = generator(1)

    def noisy(x):
        return bent(x) * torch.randn(1, generator=noise).mul(5).add(1)

    steps = [gradient(eot(noisy, samples), images) for samples in (1, 200)]
    errors = [float((step - gradient(bent, images)).norm() / gradient(bent, images).norm()) for step in steps]
    assert errors[1] < 0.9
    assert errors[1] < errors[0]


def test_eot_settings_are_checked():
    with pytest.raises(ConfigError, match="samples=0"):
        eot(bent, 0)
    with pytest.raises(ConfigError, match="'votes': choose one of logits, probabilities, gradients, directions"):
        eot(bent, 2, average="votes")


def test_through_the_solver_forward_is_the_purifier(purifier, images):
    expected = purifier.purify(images).images
    torch.testing.assert_close(
        purifier.purify_differentiably(images, purifier.settings.csc.rel_tol), expected, rtol=0, atol=1e-6
    )
    model = through_solver(lambda x: x, purifier)
    assert torch.equal(model(images), expected)
    tighter = model(images.clone().requires_grad_()).detach()
    assert not torch.equal(tighter, expected)
    assert (tighter - expected).flatten(1).norm(dim=1).max() < 0.02 * expected.flatten(1).norm(dim=1).min()


@pytest.mark.parametrize("differentiable", ["implicit", "unrolled"])
def test_through_the_solver_gradients_are_those_of_finite_differences(differentiable, purifier, images, monkeypatch):
    """With one λ for all images; that of a λ from the noise is in purifiers/test_rewriting.py."""
    images, step = 0.15 + 0.7 * images[:1], 1e-3
    settings, csc = purifier.settings, purifier.settings.csc.model_copy(update={"noise_factor": 0.0})
    monkeypatch.setattr(purifier, "settings", settings.model_copy(update={"csc": csc}))
    found = gradient(through_solver(bent, purifier, 2e-5, differentiable), images)

    def model(x):
        return bent(purifier.purify_differentiably(x, 2e-5, differentiable))

    for seed in range(2):
        # A smooth direction, so that the support of the code changes little.
        way = tikhonov_split(torch.randn(images.shape, generator=generator(seed)), lmbda=2.0)[0]
        with torch.no_grad():
            slope = (model(images + step * way) - model(images - step * way))[:, 0] / (2 * step)
        torch.testing.assert_close((found * way).sum(), slope.sum(), rtol=0.01, atol=0.02 * float(found.norm()))


def test_both_ways_through_the_solver_agree_and_differ_from_the_identity(purifier, images):
    implicit, unrolled = (
        gradient(through_solver(bent, purifier, 1e-3, how), images[:1]).flatten() for how in ("implicit", "unrolled")
    )
    straight = gradient(bpda(bent, lambda x: purifier.purify(x).images), images[:1]).flatten()
    assert torch.cosine_similarity(implicit, unrolled, dim=0) > 0.95
    assert torch.cosine_similarity(implicit, straight, dim=0) < 0.95


def test_the_attack_through_the_solver_is_stronger_than_the_gray_box(purifier, images):
    with torch.no_grad():
        labels = purifier.network(purifier.purify(images).images).argmax(1)
    attack = PGD(eps=0.01, norm="dissimilarity", steps=5, random_start=False)
    gray = attack(purifier.network, images, labels)
    adaptive = attack(through_solver(purifier.network, purifier), images, labels)
    with torch.no_grad():
        weaker, stronger = (margin(purifier.network(purifier.purify(x).images), labels) for x in (gray, adaptive))
    assert stronger.sum() > weaker.sum()


def test_the_lowpass_surrogate_of_a_bundle_has_its_own_split(purifier, images):
    purified = purifier.purify(images).images
    own, papers = smooth_surrogate(purifier)(images, purified), lowpass()(images, purified)
    assert purifier.settings.csc.tikhonov == 20
    assert torch.equal(own, lowpass(20.0, 16)(images, purified))
    assert not torch.equal(own, papers)
    assert torch.equal(smooth_surrogate(object())(images, purified), papers)


def test_the_joint_gradient_is_the_sum_of_both_and_its_values_are_the_purifiers(purifier, images):
    images = images[:1]
    model, weight = joint(purifier.network, purifier, weight=0.7), torch.tensor(0.7)
    plain = purifier.network(purifier.purify(images).images)
    assert torch.equal(model(images), plain)
    x = images.clone().requires_grad_()
    logits = model(x)
    torch.testing.assert_close(logits, through_solver(purifier.network, purifier)(x))
    (found,) = torch.autograd.grad(margin(logits, logits.argmax(1)).sum(), x)
    (solver,) = torch.autograd.grad(margin(through_solver(purifier.network, purifier)(x), logits.argmax(1)).sum(), x)
    best, second = logits.detach().topk(2).indices[0]
    of_cluster = torch.tensor(purifier.bundle.manifest.cluster_class)
    scores = class_scores(cluster_scores(purifier)(x), of_cluster)
    (pull,) = torch.autograd.grad((scores[0, second] - scores[0, best]).sum(), x)
    scale = (logits.std(1) / scores.std(1)).detach()
    torch.testing.assert_close(found, solver + weight * scale * pull, rtol=1e-3, atol=1e-3 * float(found.abs().max()))


def test_apgd_goes_through_the_solver_and_the_joint_gradient(purifier, images):
    """Each no weaker than the plain attacks of as many steps: by the margin after the true purifier, as files."""
    with torch.no_grad():
        labels = purifier.network(purifier.purify(images).images).argmax(1)

    def reached(attack, model):
        found = attack(model, images, labels, generator=generator())
        assert (size(found - images, images, "linf") <= attack.eps * (1 + 1e-5)).all()
        with torch.no_grad():
            rounded = (found * 255).round() / 255
            return margin(purifier.network(purifier.purify(rounded).images), labels)

    attack = APGD(eps=2 / 255, loss="margin", steps=6)
    gray = reached(attack, purifier.network)
    for model in (through_solver(purifier.network, purifier), joint(purifier.network, purifier)):
        assert reached(attack, model).clamp_max(0).sum() >= gray.clamp_max(0).sum()


def test_cluster_scores_are_distances_and_differentiable(purifier, images):
    model = cluster_scores(purifier)
    expected = -purifier.distributions.distance(purifier.latents(images))
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)
    found = gradient(model, images)
    way = torch.randn(images.shape, generator=generator())
    slope = (model(images + 1e-4 * way) - model(images - 1e-4 * way))[:, 0] / 2e-4
    torch.testing.assert_close((found * way).sum((1, 2, 3)), slope, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("attack", "loss"),
    [
        (PGD(eps=0.05, norm="dissimilarity"), margin),
        (CW(eps=0.1, norm="dissimilarity", searches=2, steps=20, initial_const=1.0), None),
        (DeepFool(eps=0.1, norm="dissimilarity", steps=10), None),
        (Square(eps=0.05, queries=60), margin),
    ],
)
def test_the_choice_of_the_cluster_is_attacked(attack, loss, purifier, images):
    own = purifier.purify(images).cluster
    adversarial = attack_choice(attack, purifier, images, generator=generator(), loss=loss)
    assert (size(adversarial - images, images, attack.norm) <= attack.eps * (1 + 1e-5)).all()
    scores = cluster_scores(purifier)
    assert (margin(scores(adversarial), own) > margin(scores(images), own)).all()
    assert (purifier.purify(adversarial).cluster != own).any()
