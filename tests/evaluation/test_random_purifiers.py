"""Random purifiers in a grid: what attackers average, ensembles of draws, attacks made elsewhere, and their checks."""

from contextlib import nullcontext

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from small_bundles import write_front_end

from raypurify.attacks.budget import eight_bit
from raypurify.errors import ConfigError
from raypurify.evaluation import sanity, threat_model
from raypurify.evaluation.attacked import read_attacked
from raypurify.evaluation.batches import GridBatch
from raypurify.evaluation.checked import compute_checks
from raypurify.evaluation.grid import CellName, load_grid
from raypurify.evaluation.judged import Subject, accuracy_of
from raypurify.evaluation.plan import CheckName, make_plan
from raypurify.evaluation.run import _check_pairs, evaluate
from raypurify.evaluation.sanity import check_convergence, check_uphill
from raypurify.evaluation.specs import AttackSpec, PurifierSpec
from raypurify.evaluation.subjects import Subjects
from raypurify.evaluation.tables import read_csv
from raypurify.evaluation.threat_model import Draws, sight
from raypurify.nets.cifar_resnet import load_cifar_resnet
from raypurify.purifiers import Denoiser, ResizePad
from raypurify.purifiers.draws import draws_of
from raypurify.purifiers.transform import generator_of
from raypurify.storage import resolve

COUNT = 4
RANDOM = {"purifier": "resize_pad", "smallest": 0.5}
STEP = {"attack": "pgd", "eps": 0.02, "steps": 2}
BLANK = GridBatch(("0",), np.array([0]), np.zeros((1, 3, 32, 32), np.uint8))


@pytest.fixture(scope="module")
def tree(data_file):
    kind = {"kind": "cifar-resnet"}
    return {
        "images": {"paths": str(data_file("cifar10/test.parquet")), "limit": COUNT},
        "classifiers": {
            "net": {**kind, "path": str(data_file("cifar10-resnet/resnet20-12fca82f.th"))},
            "twin": {**kind, "path": str(data_file("cifar10-resnet/resnet32-d509ac18.th"))},
        },
        "attacks": {
            "clean": {"attack": "clean"},
            "gray": STEP,
            "BPDA": {**STEP, "knows": "bpda", "draws": 3, "average": "directions"},
            "from twin": {**STEP, "knows": "bpda", "made_on": {"classifier": "twin", "purifier": "JPEG"}},
        },
        "purifiers": {
            "none": {"purifier": "none"},
            "one": RANDOM,
            "five": {**RANDOM, "ensemble": 5},
            "JPEG": {"purifier": "jpeg"},
        },
        "batch": COUNT,
        "examples": 0,
        "report": {"maps": 0, "layers": 0},
    }


@pytest.fixture(scope="module")
def worked(tree, worked_here, tmp_path_factory):
    return worked_here(tree, tmp_path_factory.mktemp("random") / "out")


@pytest.fixture(scope="module")
def network(data_file):
    return load_cifar_resnet(data_file("cifar10-resnet/resnet20-12fca82f.th"))


def column(plan, name: CellName, of: str) -> np.ndarray:
    with plan.cell(name, 0).open() as file:
        return pq.read_table(file)[of].to_numpy(zero_copy_only=False)


def with_attack(tree: dict, **attack) -> dict:
    return {**tree, "attacks": {"clean": {"attack": "clean"}, "it": {**STEP, **attack}}}


def test_an_ensemble_answers_by_the_mean_of_the_softmax(worked, network):
    attacked = read_attacked(worked.adversarial(CellName("net", "gray", "five"), 0))
    parts = [ResizePad(smallest=0.5, seed=k).purify(attacked).images for k in range(5)]
    with torch.no_grad():
        answers = torch.stack([network((255 * one).round() / 255).softmax(1) for one in parts])
    one, five = (column(worked, CellName("net", "gray", name), "predicted") for name in ("one", "five"))
    assert five.tolist() == answers.mean(0).argmax(1).tolist()
    assert one.tolist() == answers[0].argmax(1).tolist()
    psnr = [column(worked, CellName("net", "gray", name), "psnr") for name in ("one", "five")]
    assert np.array_equal(*psnr)


def test_who_does_not_know_the_purifier_attacks_the_same_images_and_who_knows_sees_other_draws(worked, network):
    def file(attack, purifier, classifier="net"):
        return worked.adversarial(CellName(classifier, attack, purifier), 0)

    assert file("gray", "one") == file("gray", "five") == file("gray", "none")
    assert file("BPDA", "one") != file("BPDA", "five")
    clean = read_attacked(file("gray", "one"))
    labels = torch.zeros(COUNT, dtype=torch.int64)
    seen = sight("bpda", network, ResizePad(smallest=0.5), clean, labels, Draws(3, skip=5)).model(clean)
    drawn = [network(eight_bit(ResizePad(smallest=0.5, seed=k).purify(clean).images)) for k in (5, 6, 7)]
    torch.testing.assert_close(seen, torch.stack(drawn).mean(0))


def test_an_attack_made_on_another_is_carried_over(worked):
    on_twin = worked.adversarial(CellName("twin", "from twin", "JPEG"), 0)
    for classifier in ("net", "twin"):
        for purifier in ("none", "one", "five", "JPEG"):
            assert worked.adversarial(CellName(classifier, "from twin", purifier), 0) == on_twin
    keys = [worked.keys["net", "from twin", p][0].cell for p in ("none", "one", "five", "JPEG")]
    assert len({*keys, worked.keys["twin", "from twin", "JPEG"][0].cell}) == 5


def test_what_is_made_elsewhere_draws_none_of_the_seeds_that_answer(tree, worked_here, tmp_path, network, monkeypatch):
    """One image and one seed give one draw: who had those of an ensemble would choose images by its answer."""
    small = with_attack(tree, knows="bpda", draws=2, made_on={"classifier": "net", "purifier": "one"})
    small |= {"attacks": small["attacks"] | {"own": {**STEP, "knows": "bpda", "draws": 2}}}
    small |= {"classifiers": {"net": tree["classifiers"]["net"]}}
    seen = []

    def noted(purifier, count, skip=0):
        seen.append((skip, count))
        return draws_of(purifier, count, skip)

    monkeypatch.setattr(threat_model, "draws_of", noted)
    plan = worked_here(small, tmp_path / "out")
    assert plan.grid.in_use(CellName("net", "it", "one")) == 5
    # The carried over one, which is made once; the others behind each of their own.
    assert sorted(seen) == [(1, 2), (5, 2), (5, 2)]
    keys = {p: plan.keys["net", "it", p][0].adversarial for p in ("one", "five")}
    three = {"purifiers": {**small["purifiers"], "five": {**RANDOM, "ensemble": 3}}}
    other = make_plan(load_grid(small | three), resolve(tmp_path), [BLANK])
    same = make_plan(load_grid(small), resolve(tmp_path), [BLANK])
    assert keys["one"] == keys["five"]
    assert other.keys["net", "it", "one"][0].adversarial != same.keys["net", "it", "one"][0].adversarial
    assert other.keys["net", "own", "one"] == same.keys["net", "own", "one"]


def test_what_it_was_made_on_says_which_images_were_right_before(worked):
    cell = CellName("net", "from twin", "one")
    right = column(worked, CellName("twin", "clean", "JPEG"), "correct")
    sizes = column(worked, cell, "size")
    text = (worked.out / "cells.csv").read().decode().splitlines()
    row = next(line.split(",") for line in text if line.startswith("net,from twin,one,"))
    size = float(row[text[0].split(",").index("size")])
    assert size == pytest.approx(float(sizes[right].mean()))


def test_of_a_front_end_the_encoder_is_passed_and_of_others_what_they_have(tree, worked_here, tmp_path):
    bundle = str(write_front_end(tmp_path / "bundle"))
    small = with_attack(tree, knows="nfga-smooth", draws=2, average="directions")
    front = {"purifier": "bundle", "bundle": bundle, "ensemble": 2}
    plan = worked_here({**small, "purifiers": {"front": front, "JPEG": {"purifier": "jpeg"}}}, tmp_path / "out")
    found = {one.purifier: one for one in read_csv((plan.out / "cells.csv").read().decode()) if one.attack == "it"}
    assert [(one.knows, one.done, one.weaker) for one in found.values()] == [
        ("nfga-smooth", "nfga-smooth", False),
        ("nfga-smooth", "bpda", True),
    ]


def test_digests_have_what_is_new_only_where_it_is_said():
    plain = AttackSpec(attack="pgd", eps=0.1, knows="bpda", worst="group")
    assert plain.decisive == {"attack": "pgd", "knows": "bpda", "eps": 0.1}
    assert AttackSpec(**plain.model_dump() | {"draws": 8, "average": "logits"}).decisive == plain.decisive
    said = AttackSpec(attack="pgd", eps=0.1, knows="bpda", draws=40)
    assert said.decisive == {"attack": "pgd", "knows": "bpda", "draws": 40, "average": "logits", "eps": 0.1}
    assert "draws" not in said.settings
    assert PurifierSpec(purifier="jpeg", quality=3).decisive == {"purifier": "jpeg", "quality": 3}
    assert PurifierSpec(**RANDOM, ensemble=2).decisive == {**RANDOM, "ensemble": 2}


def test_checks_have_a_key_of_their_own_where_draws_are_said(tree, tmp_path):
    def keys(**attack):
        grid = load_grid({**with_attack(tree, knows="bpda", **attack), "sanity": 1})
        return make_plan(grid, resolve(tmp_path / "out"), [BLANK]).check_keys

    plain, said, usual = keys(), keys(draws=9), keys(draws=8)
    behind = {name for name in plain if name.purifier}
    assert plain == usual
    assert {name for name in plain if plain[name] != said[name]} == behind
    elsewhere = keys(made_on={"classifier": "twin", "purifier": "JPEG"})
    assert set(elsewhere) == {
        CheckName("net", "", "classifier"),
        CheckName("twin", "", "classifier"),
        CheckName("twin", "JPEG", "bpda"),
    }


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        ({"draws": 3}, "draws and average are of a purifier, which this attacker does not know"),
        ({"knows": "bpda", "draws": 0}, "attacks.it.draws: Input should be greater than or equal to 1"),
        ({"knows": "bpda", "draws": 10**9}, "attacks.it.draws: Input should be less than or equal to 1000"),
        ({"knows": "bpda", "average": "votes"}, "choose one of logits, probabilities, gradients, directions"),
        ({"made_on": {"classifier": "third"}}, "'it' is made on 'third', which is none of net, twin"),
        ({"made_on": {"classifier": "net", "purifier": "JPEG"}}, "made_on needs a purifier where the attacker knows"),
        ({"knows": "bpda", "made_on": {"classifier": "net"}}, "made_on needs a purifier where the attacker knows"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(tree, attack, message):
    with pytest.raises(ConfigError, match=message):
        load_grid(with_attack(tree, **attack))


def test_images_for_one_classifier_stand_before_no_other(tree, tmp_path):
    bundle = str(write_front_end(tmp_path / "supervised", supervised=True))
    own, net = {"kind": "bundle", "path": bundle}, tree["classifiers"]["net"]
    front = {"none": {"purifier": "none"}, "front": {"purifier": "bundle", "bundle": bundle}}
    tree = with_attack(tree | {"purifiers": front})
    with pytest.raises(ConfigError, match=r"'front'.* alone, and classifier 'net' is another"):
        evaluate(load_grid(tree | {"classifiers": {"own": own, "net": net}}), tmp_path / "out")
    _check_pairs(load_grid(tree | {"classifiers": {"own": own, "net": net | {"behind": "none"}}}))
    # Without its front end it has never learned to see: neither cells nor checks of it alone.
    bound = {"classifiers": {"own": own | {"alone": False}, "net": net | {"behind": "none"}}, "sanity": 1}
    plan = make_plan(load_grid(tree | bound), resolve(tmp_path), [BLANK])
    assert {(name.classifier, name.purifier) for name in plan.keys} == {("own", "front"), ("net", "none")}
    assert {*plan.check_keys} == {CheckName("net", "", "classifier")}


def test_uphill_is_judged_with_the_draws_held(network, cifar_images, monkeypatch):
    """Under noise far larger than a step a loss goes up or down by the draw."""
    images, labels = cifar_images("test.parquet", 8)
    subject = Subject(sight("solver", network, Denoiser(noise=0.3), images, labels, Draws(1)).model)
    found = check_uphill(subject, images, labels)
    monkeypatch.setattr(sanity, "held_draws", nullcontext)
    free = check_uphill(subject, images, labels)
    assert (found.passed, free.passed) == (True, False), (found.figures, free.figures)


def test_losses_under_attack_are_compared_with_the_draws_held(network, cifar_images, monkeypatch):
    images, labels = cifar_images("test.parquet", 8)

    def noisy(x):
        """Logits with noise that the image decides, as a random purifier's draws; the gradient is the network's."""
        drawn = [generator_of(one, 0).standard_normal(10) for one in x.detach().numpy()]
        return network(x) + 4 * torch.from_numpy(np.stack(drawn)).float()

    found = check_convergence(Subject(noisy), images, labels)
    monkeypatch.setattr(sanity, "held_draws", nullcontext)
    free = check_convergence(Subject(noisy), images, labels)
    assert (found.passed, free.passed) == (True, False), (found.figures, free.figures)


def test_the_noise_of_draws_is_measured_and_allowed_for():
    right = torch.rand(4000, 5, generator=torch.Generator().manual_seed(0)) < torch.tensor([0.1, 0.5, 0.9, 1.0, 0.0])
    groups = [accuracy_of(some) for some in right.split(8)]
    values = torch.tensor([one.value for one in groups])
    assert values.var().item() == pytest.approx(np.mean([one.variance for one in groups]), rel=0.15)
    assert accuracy_of(right[0]).variance == accuracy_of(right[:1]).variance == 0


def test_a_random_purifier_is_judged_by_several_draws(tree, cifar_images):
    images, labels = cifar_images("test.parquet", 2)
    batch = GridBatch(("a", "b"), labels.numpy(), (images * 255).round().to(torch.uint8).numpy())
    grid = load_grid(with_attack(tree, knows="solver", draws=2))
    checks = compute_checks(Subjects(grid), CheckName("net", "one", "solver"), batch)
    assert all("n = 2, one image of slack, and the noise of 8 draws" in one.figures for one in checks[:6])
    # Of two draws a step the ascent is not always flat after fifty.
    assert {one.name for one in checks if not one.passed} <= {"the loss is flat at the end"}
