"""What an attacker does about a purifier is what it asked for, or is said."""

import pytest
import torch

import raypurify
from raypurify.attacks import PGD
from raypurify.attacks.budget import eight_bit
from raypurify.evaluation.grid import load_grid
from raypurify.evaluation.threat_model import differentiated, perturb, sight
from raypurify.nets.cifar_resnet import load_cifar_resnet
from raypurify.purifiers import JPEG, LowPass, ResizePad, Unchanged


@pytest.mark.parametrize(
    ("purifier", "ways"),
    [
        (JPEG(), {"solver": "bpda", "choice": "bpda"}),
        (LowPass(), {"solver": "gradient", "choice": "gradient"}),
        (ResizePad(), {"solver": "gradient", "choice": "gradient"}),
        (Unchanged(), {"solver": "gradient", "choice": "gradient"}),
        (None, {}),
    ],
)
def test_who_asks_for_what_a_purifier_lacks_is_told(purifier, ways):
    purifier = purifier or raypurify.load("cifar10")
    for knows in ("classifier", "bpda", "bpda-smooth", "solver", "choice"):
        assert differentiated(knows, purifier) == ways.get(knows, knows)


def test_a_purifier_that_can_be_differentiated_is(cifar_images, data_file):
    images, labels = cifar_images("test.parquet", 4)
    network, purifier = load_cifar_resnet(data_file("cifar10-resnet/resnet20-12fca82f.th")), LowPass(tikhonov=0.5)
    model = sight("solver", network, purifier, images, labels, rounded=False).model
    x = images.clone().requires_grad_(True)
    (found,) = torch.autograd.grad(model(x).sum(), x)
    (expected,) = torch.autograd.grad(network(purifier.transform(x).clamp(0, 1)).sum(), x)
    assert torch.equal(found, expected)
    assert torch.equal(model(images), network(purifier.purify(images).images))
    attack, generator = PGD(eps=0.01, steps=2), torch.Generator()
    made = {
        knows: perturb(attack, knows, network, purifier, images, labels, generator.manual_seed(0))
        for knows in ("solver", "bpda")
    }
    assert not torch.equal(made["solver"], made["bpda"])


def test_of_a_purifier_that_draws_the_attacker_averages(cifar_images, data_file):
    images, labels = cifar_images("test.parquet", 2)
    network = load_cifar_resnet(data_file("cifar10-resnet/resnet20-12fca82f.th"))
    purifier = ResizePad(smallest=0.5)
    for knows in ("solver", "bpda"):
        logits = sight(knows, network, purifier, images, labels).model(images)
        drawn = [network(eight_bit(ResizePad(smallest=0.5, seed=1 + k).purify(images).images)) for k in range(8)]
        torch.testing.assert_close(logits, torch.stack(drawn).mean(0))


def test_the_grids_steer_the_joint_attack_by_its_own_gradient(request):
    """Auto-PGD halves steps and keeps points by the logits alone, which do not know the pull to other clusters."""
    paths = sorted((request.config.rootpath / "benchmarks" / "grids").glob("*.yaml"))
    specs = [spec for path in paths for spec in load_grid(path, "data").attacks.values() if spec.knows == "joint"]
    assert len(specs) >= 3
    for spec in specs:
        assert spec.attack == "pgd"
        attack = PGD(**spec.settings)
        assert (attack.loss, attack.restarts > 1) == ("margin", True)
