"""The networks of PCL's Table 1: their sizes, a training with branches, and the way to a grid's classifier."""

import pytest
import torch
from torch import nn

from raypurify.config import RobustTrainingSettings
from raypurify.errors import ConfigError
from raypurify.evaluation.specs import ClassifierSpec
from raypurify.evaluation.subjects import make_classifier
from raypurify.nets.bottleneck_resnet import BottleneckResNet
from raypurify.nets.cnn6 import CNN6
from raypurify.nets.store import load_network, save_network
from raypurify.training import kind_of, train_epochs
from raypurify.training.batch import Batch

# Of each kind a small one, with the branches of Table 1.
SMALL = {
    "bottleneck-resnet": (lambda: BottleneckResNet(11, classes=3), {"branches": [2, 3], "branch_dim": [16, 0]}),
    "cnn6": (lambda: CNN6(classes=3), {"branches": [3, 4], "branch_dim": 0}),
}
every_kind = pytest.mark.parametrize("kind", SMALL)


def drawn(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return SMALL[kind][0]()


@pytest.mark.parametrize(
    ("make", "parameters", "convolutions"),
    [
        (lambda: BottleneckResNet(110), 1_418_586, 3 * 36 + 3 + 1),
        # Of the authors' code: its convolutions, and its parameters.
        (lambda: BottleneckResNet(164), 1_975_002, 166),
        (CNN6, 1_420_272, 6),
    ],
    ids=["ResNet-110", "ResNet-164", "CNN-6"],
)
def test_sizes_are_those_of_the_table_and_of_the_authors_code(make, parameters, convolutions):
    with torch.device("meta"):
        network = make()
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert sum(isinstance(module, nn.Conv2d) for module in network.modules()) == convolutions


def test_maps_of_cnn6_are_those_of_the_table():
    network = CNN6().eval()
    maps = [torch.zeros(1, 3, 28, 28)]
    for group in network.groups:
        maps.append(group(maps[-1]))
    assert [tuple(one.shape[1:]) for one in maps[1:]] == [(32, 14, 14), (64, 7, 7), (128, 3, 3)]
    # Of these the average is taken where they are larger.
    assert network(torch.rand(2, 3, 32, 48)).shape == (2, 10)


@every_kind
def test_logits_are_the_head_of_the_latents(kind):
    network, images = drawn(kind).eval(), torch.rand(2, 3, 28, 28)
    logits, latents = network(images, with_latents=True)
    assert latents.shape == (2, network.dim)
    torch.testing.assert_close(logits, network.head(network.latents(images)))
    torch.testing.assert_close(logits, network(images))
    assert logits.std() > 1e-3


@every_kind
def test_a_grid_takes_the_file_of_a_training(kind, tmp_path):
    network, path = drawn(kind).eval(), tmp_path / "network.safetensors"
    save_network(path, network)
    images = torch.rand(2, 3, 28, 28)
    made = make_classifier(ClassifierSpec(kind=kind, path=str(path)))
    assert torch.equal(made(images), network(images))
    assert load_network(path).settings == network.settings


@every_kind
def test_training_with_the_branches_of_the_table_lowers_the_loss(kind):
    """By cross-entropy and PCL at layers 3, 4 and 5, on six images."""
    network = drawn(kind)
    settings = RobustTrainingSettings(
        semantic="pcl",
        images="clean",
        alpha=0.01,
        epochs=5,
        lr=0.005,
        batch_size=6,
        precision="float32",
        augment="none",
        **SMALL[kind][1],
    )
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (6, 3, 28, 28), dtype=torch.uint8, generator=generator)
    batch, told = Batch(pixels, torch.tensor([0, 1, 2, 0, 1, 2]), None), []
    trained = kind_of(settings, network=network, seed=1)
    train_epochs(
        network,
        lambda epoch, first: iter([batch] * (2 - first)),
        settings,
        2,
        objective=trained.objective,
        supervision=trained.supervision,
        on_epoch=lambda epoch, metrics, state: told.append(metrics),
    )
    assert told[-1]["loss"] < told[0]["loss"]
    places = {f"group{branch}" for branch in SMALL[kind][1]["branches"]}
    assert {name.partition("_")[2] for name in told[0] if name.startswith("pcl")} == {"", *places}


@pytest.mark.parametrize("depth", [2, 12, 112])
def test_a_depth_that_is_none_is_refused(depth):
    with pytest.raises(ConfigError, match=f"depth={depth}"):
        BottleneckResNet(depth)


@pytest.mark.parametrize("make", [lambda: BottleneckResNet(11, classes=1), lambda: CNN6(classes=1)])
def test_one_class_is_refused(make):
    with pytest.raises(ConfigError, match="classes=1"):
        make()
