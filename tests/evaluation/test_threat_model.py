"""What an attacker differentiates of which purifier, and that it is what is said."""

from copy import copy
from dataclasses import dataclass, replace

import pytest
import torch

import raypurify
from raypurify.attacks import ATTACKS
from raypurify.attacks.adaptive import cluster_scores
from raypurify.attacks.budget import eight_bit
from raypurify.attacks.losses import margin
from raypurify.evaluation import specs
from raypurify.evaluation.report import _about_daggers
from raypurify.evaluation.tables import Cell
from raypurify.evaluation.threat_model import NFGA, Draws, differentiated, done_about, perturb, sight
from raypurify.purifiers import PURIFIERS, GlobalRSFP

# Of the purifier; who knows centres looks at the classifier's training instead.
KNOWS = [knows for knows in specs.KNOWS if knows != "centres"]


@pytest.fixture(scope="module")
def subjects():
    drawn = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    atoms = drawn / drawn.flatten(1).norm(dim=1)[:, None, None, None]
    return {"RSFP": raypurify.load("cifar10"), "one dictionary": GlobalRSFP(atoms), "JPEG": PURIFIERS["jpeg"]()}


def test_what_a_purifier_lacks_is_passed_as_said(subjects):
    said = {name: [differentiated(knows, purifier) for knows in KNOWS] for name, purifier in subjects.items()}
    assert said["RSFP"] == [knows if knows not in NFGA else "solver" for knows in KNOWS]
    assert said["one dictionary"] == ["classifier", "bpda", "bpda-smooth", *["solver"] * 5]
    assert said["JPEG"] == ["classifier", "bpda", "bpda-smooth", *["bpda"] * 5]


def test_of_one_cluster_there_is_no_choice_to_attack(subjects):
    alone = copy(subjects["RSFP"])
    alone.classes_of_cluster = alone.classes_of_cluster[:1]
    assert [differentiated(knows, alone) for knows in ("choice", "joint", "solver")] == ["solver"] * 3


def test_a_gradient_that_holds_refined_atoms_says_so_and_has_a_dagger(subjects):
    plain = subjects["one dictionary"]
    refined = replace(plain, csc=plain.csc.model_copy(update={"refine": 2}))
    of_bundle = copy(subjects["RSFP"])
    csc = of_bundle.settings.csc.model_copy(update={"refine": 1})
    of_bundle.settings = of_bundle.settings.model_copy(update={"csc": csc})
    daggers = []
    for knows in KNOWS:
        assert done_about(knows, plain) == differentiated(knows, plain)
        for purifier in (refined, of_bundle):
            done = done_about(knows, purifier)
            cell = Cell("net", "pgd", "p", 0.5, 0.4, 0.6, 9, 0, 0, 0, 0, knows=knows, done=done)
            daggers.append(cell.weaker)
            assert cell.weaker == (differentiated(knows, purifier) in ("solver", "joint"))
            assert bool(_about_daggers([cell])) == cell.weaker
    assert {*daggers} == {True, False}


@dataclass
class Gradient:
    """An attack that gives the gradient of its model instead of images."""

    def __call__(self, model, images, labels, *, generator=None, loss=None):
        x = images.clone().requires_grad_()
        logits = model(x)
        value = logits.gather(1, labels[:, None]).sum() if loss is None else loss(logits, labels).sum()
        return torch.autograd.grad(value, x)[0]


def test_each_knowledge_has_a_gradient_of_its_own(subjects):
    x, labels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.tensor([3])
    network = subjects["RSFP"].network
    for name, purifier in subjects.items():
        gradients = {
            knows: perturb(Gradient(), knows, network, purifier, x, labels, torch.Generator()) for knows in KNOWS
        }
        for knows, gradient in gradients.items():
            same = [other for other in KNOWS if torch.equal(gradients[other], gradient)]
            alike = [other for other in KNOWS if differentiated(other, purifier) == differentiated(knows, purifier)]
            assert same == alike, (name, knows)


@pytest.mark.parametrize("rounded", [True, False])
def test_who_knows_a_purifier_judges_success_by_what_the_classifier_is_shown(subjects, rounded):
    x, labels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.tensor([3])
    network = subjects["RSFP"].network
    for name, purifier in {**subjects, "TVM": PURIFIERS["tvm"](steps=5)}.items():
        purified = purifier.purify(x).images
        shown = eight_bit(purified) if rounded else purified
        assert not torch.equal(eight_bit(purified), purified) or name == "JPEG"
        for knows in set(KNOWS) - {"classifier", "choice"}:
            model = sight(knows, network, purifier, x, labels, Draws(1, skip=0), rounded=rounded).model
            with torch.no_grad():
                assert torch.equal(model(x), network(shown)), (name, knows)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("cw", {"searches": 1, "steps": 15, "initial_const": 1.0, "step_size": 0.05}),
        ("deepfool", {"steps": 5}),
        ("square", {"norm": "linf", "queries": 40}),
    ],
)
def test_attacks_with_an_objective_of_their_own_go_with_the_choice_by_it(name, settings, subjects):
    purifier = subjects["RSFP"]
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    own, scores = purifier.purify(x).cluster, cluster_scores(purifier)
    eps = 8 / 255 if "norm" in settings else 2.0
    attack = ATTACKS[name](eps=eps, **settings)
    made = perturb(attack, "choice", purifier.network, purifier, x, own, torch.Generator().manual_seed(0))
    # Without a loss from outside.
    expected = attack(scores, x, own, generator=torch.Generator().manual_seed(0))
    assert torch.equal(made, expected)
    with torch.no_grad():
        assert (margin(scores(made), own) > margin(scores(x), own)).all()
