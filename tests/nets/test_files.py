"""Networks in files of TorchScript and of ``torch.export``: what they compute, and that nothing in them runs."""

import io
import json
import os
import pickle
import zipfile

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from raypurify.errors import SourceError
from raypurify.nets.exported import load_exported
from raypurify.nets.torchscript import load_torchscript

GRAPH, INPUTS = "net/models/model.json", "net/data/sample_inputs/model.pt"
WEIGHTS, CONSTANTS = (f"net/data/{part}/model_{part}_config.json" for part in ("weights", "constants"))


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Linear(4, 5))
        self.register_buffer("mean", torch.full((3, 1, 1), 0.4), persistent=False)

    def forward(self, images):
        hidden = F.interpolate(images, (12, 12), mode="bilinear", antialias=True) - self.mean
        return self.head(F.adaptive_avg_pool2d(self.norm(self.conv(hidden)).relu(), 1).flatten(1))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    pytest.importorskip("torch.export.pt2_archive")
    file = tmp_path_factory.mktemp("exported") / "net.pt2"
    shapes = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(network, (torch.rand(2, 3, 16, 16),), dynamic_shapes=shapes), file)
    return file


@pytest.fixture(scope="module")
def scripted(network, tmp_path_factory):
    file = tmp_path_factory.mktemp("scripted") / "net.pt"
    torch.jit.script(network).save(str(file))
    return file


class Runs:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def changed(file, changes: dict, to):
    with zipfile.ZipFile(file) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    records |= {name: change(records.get(name, b"")) for name, change in changes.items()}
    with zipfile.ZipFile(to, "w") as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return to


def saved(value) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["exported", "scripted"])
def test_a_file_is_the_network_that_was_saved(kind, network, request):
    load = {"exported": load_exported, "scripted": load_torchscript}[kind]
    loaded = load(request.getfixturevalue(kind)).eval()
    for count in (1, 3):
        images = torch.rand(count, 3, 16, 16, requires_grad=True)
        torch.testing.assert_close(loaded(images), network(images))
        (found,) = torch.autograd.grad(loaded(images).logsumexp(1).sum(), images)
        (expected,) = torch.autograd.grad(network(images).logsumexp(1).sum(), images)
        torch.testing.assert_close(found, expected)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert sum(value.numel() for value in loaded.parameters()) == sum(value.numel() for value in network.parameters())


def run_of(mark) -> str:
    return f"__import__('os').mkdir({str(mark)!r})"


def in_config(update):
    def change(data):
        config = json.loads(data)
        next(iter(config["config"].values())).update(update)
        return json.dumps(config)

    return change


# By what is put where, as (record, change(mark)); torch itself runs each of them.
EVIL = {
    "inputs": lambda mark: {INPUTS: lambda _: saved(Runs(mark))},
    "object": lambda mark: {
        CONSTANTS: in_config({"path_name": "opaque_obj_0", "use_pickle": True}),
        "net/data/constants/opaque_obj_0": lambda _: pickle.dumps(Runs(mark)),
    },
    "weight": lambda mark: {
        WEIGHTS: in_config({"use_pickle": True}),
        "net/data/weights/weight_0": lambda _: saved(Runs(mark)),
    },
    "size": lambda mark: {GRAPH: lambda data: sized(data, run_of(mark))},
    "name": lambda mark: {GRAPH: lambda data: data.replace(b'"images"', json.dumps(f"a={run_of(mark)}").encode())},
    "operator": lambda mark: {GRAPH: lambda data: data.replace(b"torch.ops.aten.relu.default", b"torch.os.getcwd")},
    "library": lambda mark: {"net/data/aotinductor/model/x.so": lambda _: b"\x7fELF"},
}


def sized(data, text):
    tree = json.loads(data)
    sizes = tree["graph_module"]["graph"]["tensor_values"]["images"]["sizes"]
    sizes[0]["as_expr"]["expr_str"] = text
    return json.dumps(tree)


@pytest.mark.parametrize("evil", EVIL)
def test_nothing_in_an_exported_file_runs(evil, exported, tmp_path):
    file = changed(exported, EVIL[evil](tmp_path / "ran"), tmp_path / "evil.pt2")
    with pytest.raises(SourceError, match=r"evil\.pt2: (holds|net/models|not a network)"):
        load_exported(file)
    assert not (tmp_path / "ran").exists()


def test_guards_of_an_exported_file_are_left_out(exported, network, tmp_path):
    def guarded(data):
        return json.dumps(json.loads(data) | {"guards_code": [run_of(tmp_path / "ran")]})

    images = torch.rand(2, 3, 16, 16)
    loaded = load_exported(changed(exported, {GRAPH: guarded}, tmp_path / "evil.pt2"))
    torch.testing.assert_close(loaded(images), network(images))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "line",
    [
        "torch.save(1, {!r})",
        "f = torch.save",
        "ops.other.run(x)",
        "t = torch\n    t.x(1)",
        "getattr(torch, 'sa' 've')(1)",
        "getattr(ops.aten, 'sa' 've')(1)",
    ],
)
def test_what_reaches_out_of_a_scripted_file_is_refused(line, scripted, tmp_path):
    def calling(data):
        head, arrow, rest = data.decode().partition("-> Tensor:\n")
        return f"{head}{arrow}    {line.format(str(tmp_path / 'ran'))}\n{rest}"

    file = changed(scripted, {"net/code/__torch__/test_files.py": calling}, tmp_path / "evil.pt")
    with pytest.raises(SourceError, match=r"evil\.pt: net/code/\S+ (reaches|hides|calls)"):
        load_torchscript(file)


def test_pickles_in_a_scripted_file_make_no_objects(scripted, tmp_path):
    for name in ("net/data.pkl", "net/constants.pkl"):
        file = changed(scripted, {name: lambda _: pickle.dumps(Runs(tmp_path / "ran"), protocol=2)}, tmp_path / "evil")
        with pytest.raises(SourceError, match="evil: not a file of TorchScript"):
            load_torchscript(file)
    bound = {"net/data.pkl": lambda data: data + b"__torch__.torch.classes.x"}
    with pytest.raises(SourceError, match="objects made in C"):
        load_torchscript(changed(scripted, bound, tmp_path / "evil"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("load", [load_exported, load_torchscript])
def test_other_files_are_named(load, tmp_path):
    with pytest.raises(SourceError, match="none: no such file of a network"):
        load(tmp_path / "none")
    (tmp_path / "text").write_text("weights")
    with pytest.raises(SourceError, match="text: not a file of torch"):
        load(tmp_path / "text")
    (tmp_path / "saved").write_bytes(saved({"a": torch.ones(1)}))
    with pytest.raises(SourceError, match="saved: "):
        load(tmp_path / "saved")
