"""An attacker who knows the centres that a classifier was trained with."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from raypurify.attacks import PGD
from raypurify.config import RobustTrainingSettings
from raypurify.errors import ConfigError, DataError, TrainingError
from raypurify.evaluation.batches import GridBatch
from raypurify.evaluation.centres import Supervised, joint_loss
from raypurify.evaluation.checked import compute_checks
from raypurify.evaluation.digests import classifier_digest
from raypurify.evaluation.grid import CellName, load_grid
from raypurify.evaluation.groups import right_before
from raypurify.evaluation.plan import CheckName, make_plan
from raypurify.evaluation.subjects import Subjects, make_classifier
from raypurify.evaluation.threat_model import perturb, sight
from raypurify.nets import WideResNet
from raypurify.nets.store import save_network
from raypurify.purifiers import Unchanged
from raypurify.storage import resolve
from raypurify.training.start import drawn_network
from raypurify.training.supervision import SUPERVISION, save_supervision, supervision_of

SETTINGS = RobustTrainingSettings(semantic="pcl", push=0.1, alpha=0.5, branches=(2,), branch_dim=8)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("centres")
    network = drawn_network(partial(WideResNet, 10, 1, 3), seed=0).eval()
    save_network(folder / "network.safetensors", network)
    save_supervision(folder, supervision_of(SETTINGS, network=network, seed=1).state_dict(), SETTINGS)
    return folder


def grid_of(place, **more):
    net = {"kind": "wide-resnet", "path": str(place / "network.safetensors"), "centres": str(place / SUPERVISION)}
    attacks = {"adaptive": {"attack": "pgd", "eps": 0.05, "knows": "centres"}}
    return {"images": {"paths": "a"}, "classifiers": {"net": net | more}, "attacks": attacks}


@pytest.fixture(scope="module")
def classifier(place):
    return make_classifier(load_grid(grid_of(place)).classifiers["net"])


@pytest.fixture(scope="module")
def images():
    return torch.from_numpy(np.random.default_rng(0).random((6, 3, 32, 32), np.float32))


LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def batch_of(images) -> GridBatch:
    pixels = (images * 255).round().to(torch.uint8).numpy()
    return GridBatch(tuple(map(str, range(len(pixels)))), LABELS.numpy(), pixels)


def test_the_loss_is_that_of_the_training_image_by_image(place, classifier, images):
    model, loss = joint_loss(classifier)
    found = loss(model(images), LABELS)
    network, held = classifier.network, supervision_of(SETTINGS, network=classifier.network, seed=1)
    latents = network.latents(images)
    branch = held.branches["group2"]
    f = branch.embed(network.features[:3]((images - 0.5) / 0.25).mean((2, 3)))
    expected = F.cross_entropy(network(images), LABELS, reduction="none")
    expected = expected + 0.5 * held.losses["latents"](latents, LABELS)
    expected = expected + 0.5 * held.losses["group2"](f, LABELS)
    expected = expected + F.cross_entropy(branch.classify(f), LABELS, reduction="none")
    torch.testing.assert_close(found, expected)
    with pytest.raises(DataError, match="of other images than it looked at"):
        loss(model(images)[:2], LABELS[:2])


def test_an_attack_that_knows_them_raises_the_joint_loss_further(classifier, images):
    generator, attack = torch.Generator(), PGD(eps=0.05)
    model, loss = joint_loss(classifier)
    height = {}
    for knows in ("classifier", "centres"):
        generator.manual_seed(0)
        attacked = perturb(attack, knows, classifier, Unchanged(), images, LABELS, generator)
        assert float((attacked - images).abs().max()) <= 0.05 + 1e-6
        height[knows] = float(loss(model(attacked), LABELS).mean())
    assert height["centres"] > height["classifier"] > float(loss(model(images), LABELS).mean())


def test_centres_change_no_answer_but_the_digest(place, classifier, images):
    plain = load_grid(grid_of(place, centres=None) | {"attacks": {}}).classifiers["net"]
    assert torch.equal(make_classifier(plain)(images), classifier(images))
    assert classifier_digest(plain) != classifier_digest(load_grid(grid_of(place)).classifiers["net"])


def test_attacks_that_know_the_centres_are_checked_on_the_classifier_alone(place, images):
    grid = load_grid(
        grid_of(place) | {"sanity": 6, "purifiers": {"none": {"purifier": "none"}, "JPEG": {"purifier": "jpeg"}}}
    )
    names = make_plan(grid, resolve(place / "report"), [(pixels := batch_of(images))]).check_keys
    assert [*names] == [CheckName("net", "", "classifier"), CheckName("net", "", "centres")]
    plain, adaptive = ({one.name: one for one in compute_checks(Subjects(grid), name, pixels)} for name in names)
    uphill = "gradients are finite and point uphill"
    assert {*adaptive} - {*plain} == {"the white box is no weaker than a transfer", uphill}
    assert adaptive[uphill].passed
    # The losses that have been raised are two.
    flat = "the loss is flat at the end"
    assert adaptive[flat].figures != plain[flat].figures


def test_what_lacks_centres_is_refused_by_name(place, tmp_path, classifier, images):
    with pytest.raises(ConfigError, match="'adaptive' knows centres, and classifier 'net' has none: give the path"):
        load_grid(grid_of(place, centres=None))
    with pytest.raises(ConfigError, match="there are no centres at"):
        classifier_digest(load_grid(grid_of(place, centres=str(tmp_path / "no"))).classifiers["net"])
    with pytest.raises(ConfigError, match="needs a classifier with them: name its file"):
        sight("centres", classifier.network, Unchanged(), images, LABELS)
    for network in (WideResNet(10, 2, 3), WideResNet(10, 1, 4)):
        with pytest.raises(TrainingError, match="cannot read centres from"):
            Supervised(network, place / SUPERVISION)
    (tmp_path / SUPERVISION).write_bytes(b"nothing of the kind")
    with pytest.raises(TrainingError, match="cannot read centres from"):
        Supervised(classifier.network, tmp_path / SUPERVISION)


def test_who_knows_centres_knows_no_purifier(place, images):
    tree = grid_of(place) | {"purifiers": {"none": {"purifier": "none"}, "JPEG": {"purifier": "jpeg"}}}
    tree["attacks"] = {"clean": {"attack": "clean"}, **tree["attacks"]}
    grid = load_grid(tree)
    keys = make_plan(grid, resolve(place / "out"), [batch_of(images)]).keys
    assert keys["net", "adaptive", "none"][0].adversarial == keys["net", "adaptive", "JPEG"][0].adversarial
    bits = {name: {"correct": np.arange(6) % 2 == (name.purifier == "none")} for name in keys}
    behind = right_before(grid, bits, CellName("net", "adaptive", "JPEG"))
    assert behind.tolist() == bits["net", "clean", "none"]["correct"].tolist()
