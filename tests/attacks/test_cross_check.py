"""The same attacks of other toolboxes on the same images: foolbox (Rauber et al. 2017) and pyautoattack."""

import math

import pytest
import torch

from raypurify.attacks import BIM, FGSM, MIM, PGD, DeepFool, Square
from raypurify.attacks.budget import size
from raypurify.attacks.losses import margin

foolbox = pytest.importorskip("foolbox")
normalize_lp_norms = pytest.importorskip("foolbox.attacks.gradient_descent_base").normalize_lp_norms
SquareAttack = pytest.importorskip("pyautoattack.square").SquareAttack

EPS = {"linf": 2 / 255, "l2": 0.25}
both_norms = pytest.mark.parametrize("norm", EPS)


@pytest.fixture(scope="module")
def few(victim, batch):
    """Eight images that the classifier gets right, their labels, and the classifier for foolbox."""
    images, labels = batch[0][:8], batch[1][:8]
    assert (victim(images).argmax(1) == labels).all()
    return images, labels, foolbox.PyTorchModel(victim, bounds=(0, 1), device="cpu")


def dong(kind):
    """foolbox's momentum method with the ∇ / ‖∇‖₁ of Dong et al. 2018, eq. 6, where it has sign(∇) or ∇ / ‖∇‖₂."""
    return type("Dong", (kind,), {"normalize": lambda self, gradients, **_: normalize_lp_norms(gradients, p=1)})


def assert_same(found, expected):
    # Where a slope is all but zero, rounding decides its sign: a few values may be a step apart.
    assert ((found - expected).abs() < 1e-5).double().mean() > 0.99
    assert (found - expected).abs().mean() < 1e-5


@both_norms
@pytest.mark.parametrize("name", ["fgsm", "bim", "pgd", "mim"])
def test_gradient_attacks_are_foolboxs(name, norm, victim, few):
    images, labels, model = few
    theirs = foolbox.attacks
    kinds = {
        "fgsm": (theirs.LinfFastGradientAttack, theirs.L2FastGradientAttack),
        "bim": (theirs.LinfBasicIterativeAttack, theirs.L2BasicIterativeAttack),
        "pgd": (theirs.LinfProjectedGradientDescentAttack, theirs.L2ProjectedGradientDescentAttack),
        "mim": (
            dong(theirs.LinfMomentumIterativeFastGradientMethod),
            dong(theirs.L2MomentumIterativeFastGradientMethod),
        ),
    }
    eps, steps = EPS[norm], {} if name == "fgsm" else {"steps": 5, "rel_stepsize": 0.4}
    kind = kinds[name][norm == "l2"]
    expected = kind(random_start=False, **steps)(model, images, labels, epsilons=eps)[1]
    settings = {} if name == "fgsm" else {"steps": 5, "step_size": 0.4 * eps}
    settings |= {"random_start": False} if name == "pgd" else {}
    ours = {"fgsm": FGSM, "bim": BIM, "pgd": PGD, "mim": MIM}[name](eps=eps, norm=norm, **settings)
    assert_same(ours(victim, images, labels), expected)


@both_norms
def test_deepfool_is_foolboxs(norm, victim, few):
    images, labels, model = few
    kind = {"linf": foolbox.attacks.LinfDeepFoolAttack, "l2": foolbox.attacks.L2DeepFoolAttack}[norm]
    expected = kind(candidates=4, steps=20)(model, images, labels, epsilons=None)[1]
    found = DeepFool(eps=math.inf, norm=norm, classes=4, steps=20, eight_bit=False)(victim, images, labels)
    assert (margin(victim(found), labels) > 0).all()
    lengths, others = (size(x - images, images, norm) for x in (found, expected))
    torch.testing.assert_close(lengths, others, rtol=1e-2, atol=0)


@both_norms
def test_square_fools_as_many_as_the_authors_own(norm, victim, few):
    images, labels, _ = few
    eps, queries = 4 * EPS[norm], 100
    theirs = SquareAttack(
        victim, norm={"linf": "Linf", "l2": "L2"}[norm], n_queries=queries, eps=eps, device="cpu", resc_schedule=True
    )
    attack = Square(eps=eps, norm=norm, queries=queries)
    ours = attack(victim, images, labels, generator=torch.Generator().manual_seed(0))
    fooled, others = ((victim(x).argmax(1) != labels).sum() for x in (ours, theirs.perturb(images, labels)))
    # Drawn at random, on eight images.
    assert fooled >= others - 2
    assert fooled >= 2
