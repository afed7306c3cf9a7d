import pickle

import pytest
import torch

from raypurify.errors import ConfigError, SourceError
from raypurify.nets.cifar_resnet import CifarResNet, load_cifar_resnet

FILES = {
    20: "resnet20-12fca82f.th",
    32: "resnet32-d509ac18.th",
    44: "resnet44-014dd654.th",
    56: "resnet56-4bfd9763.th",
}
PARAMETERS = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018}


@pytest.fixture(scope="module")
def test_images(cifar_images):
    return cifar_images("test.parquet", 500)


@pytest.mark.parametrize("depth", FILES)
def test_pretrained_accuracy(depth, data_file, test_images):
    network = load_cifar_resnet(data_file(f"cifar10-resnet/{FILES[depth]}"))
    images, labels = test_images
    with torch.no_grad():
        predictions = torch.cat([network(part).argmax(1) for part in images.split(100)])
    assert (predictions == labels).float().mean() > 0.9
    assert network.depth == depth
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("depth", PARAMETERS)
def test_parameter_count_is_the_published_one(depth):
    assert sum(parameter.numel() for parameter in CifarResNet(depth).parameters()) == PARAMETERS[depth]


def test_logits_are_the_linear_head_of_the_latents():
    torch.manual_seed(0)
    network, images = CifarResNet(20).eval(), torch.rand(3, 3, 32, 32)
    latents = network.latents(images)
    assert latents.shape == (3, 64)
    torch.testing.assert_close(network.linear(latents), network(images))


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapped", [True, False])
def test_reads_every_common_layout(prefix, wrapped, tmp_path):
    torch.manual_seed(1)
    network = CifarResNet(20, classes=7).eval()
    state = {prefix + name: value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state, "best_prec1": 1.0} if wrapped else state, tmp_path / "net.th")
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(load_cifar_resnet(tmp_path / "net.th")(images), network(images))


def test_bad_files_are_refused_by_name(tmp_path):
    with pytest.raises(SourceError, match=r"absent\.th: no such"):
        load_cifar_resnet(tmp_path / "absent.th")
    (tmp_path / "noise.th").write_bytes(b"not a checkpoint at all")
    with pytest.raises(SourceError, match=r"noise\.th"):
        load_cifar_resnet(tmp_path / "noise.th")
    (tmp_path / "empty.th").write_bytes(b"")
    with pytest.raises(SourceError, match=r"empty\.th"):
        load_cifar_resnet(tmp_path / "empty.th")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.th")
    with pytest.raises(SourceError, match=r"other\.th: holds no CIFAR ResNet"):
        load_cifar_resnet(tmp_path / "other.th")
    torch.save([torch.zeros(3)], tmp_path / "list.th")
    with pytest.raises(SourceError, match=r"list\.th: holds no state dict"):
        load_cifar_resnet(tmp_path / "list.th")
    state = CifarResNet(20).state_dict()
    torch.save(state, tmp_path / "net.th")
    with pytest.raises(SourceError, match=r"ResNet-20, but ResNet-56"):
        load_cifar_resnet(tmp_path / "net.th", depth=56)
    del state["bn1.weight"]
    torch.save(state, tmp_path / "part.th")
    with pytest.raises(SourceError, match=r"part\.th: does not fit ResNet-20.*bn1\.weight"):
        load_cifar_resnet(tmp_path / "part.th")


class Payload:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_pickled_objects_are_never_built(tmp_path, capsys):
    for name, save in {"torch.th": torch.save, "plain.th": lambda o, p: p.write_bytes(pickle.dumps(o))}.items():
        save({"state_dict": Payload()}, tmp_path / name)
        with pytest.raises(SourceError, match="not a file of plain tensors"):
            load_cifar_resnet(tmp_path / name)
    assert "executed" not in capsys.readouterr().out


def test_impossible_depth():
    with pytest.raises(ConfigError, match="depth=21"):
        CifarResNet(21)
