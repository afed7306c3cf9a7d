"""What the header of a network's file may say: whatever it is, the file is named, and nothing large is made."""

import json

import pytest
from safetensors.torch import load_file, save_file
from torch import nn

from raypurify.config import RobustTrainingSettings
from raypurify.errors import SourceError, TrainingError
from raypurify.nets import WideResNet
from raypurify.nets.state import read_state
from raypurify.nets.store import ARCHITECTURES, load_network
from raypurify.training.supervision import MADE_OF, SUPERVISION, load_supervision, save_supervision, supervision_of

FRONT = {
    "atoms": 3,
    "size": 2,
    "stride": 2,
    "top": 1,
    "dropout": 0.0,
    "quantise": True,
    "beta": 3.0,
    "eps": 0.03,
    "channels": [2, 2],
}
SMALL = {
    "wide_resnet": {"depth": 10, "width": 1, "classes": 2, "dropout": 0.0},
    "dae": {"width": 1, "side": 8},
    "reformer": {"width": 1},
    "dncnn": {"width": 1, "depth": 3},
    "comdefend": {"width": 1, "noise": 1.0},
    "vgg16": {"classes": 2},
    "bottleneck_resnet": {"depth": 11, "classes": 2},
    "cnn6": {"classes": 2},
    "front_end": FRONT,
    "defended_classifier": {"front": FRONT, "depth": 8, "classes": 2, "classifier": "cifar-resnet"},
}
# The others of a front end are no sizes.
SIZES = {name: [*settings] for name, settings in SMALL.items()} | {
    "front_end": ["atoms", "size", "stride", "channels"],
    "defended_classifier": ["depth", "classes"],
}
# 10³⁰ is of the form 6n + 4, as the depths of wide networks are.
BAD = (0, -1, "8", None, [1], 10**30, float("nan"), float("inf"))


@pytest.fixture(scope="module")
def states():
    return {name: kind(**SMALL[name]).state_dict() for name, kind in ARCHITECTURES.items()}


@pytest.mark.parametrize(
    ("name", "setting"), [(name, setting) for name, settings in SIZES.items() for setting in settings]
)
def test_a_size_that_is_none_is_refused_with_the_name_of_the_file(name, setting, states, tmp_path):
    path = tmp_path / "odd.safetensors"
    # Without dropout there is none.
    bad = BAD[1:] if setting == "dropout" else BAD
    fits = [10**30] if (name, setting) == ("comdefend", "noise") else []
    for value in (value for value in bad if value not in fits):
        save_file(states[name], path, metadata={name: json.dumps({**SMALL[name], setting: value})})
        with pytest.raises(TrainingError, match=r"cannot read a network from .*odd\.safetensors: "):
            load_network(path, nn.Module)
    save_file(states[name], path, metadata={name: json.dumps(SMALL[name])})
    assert load_network(path, nn.Module).settings == SMALL[name]


def test_a_header_that_has_no_settings_is_refused_with_the_name_of_the_file(states, tmp_path):
    path = tmp_path / "odd.safetensors"
    for text in ("[1]", "3", "null", '"depth"', "{", '{"deep": 10}'):
        save_file(states["reformer"], path, metadata={"reformer": text})
        with pytest.raises(TrainingError, match=r"cannot read a network from .*odd\.safetensors: "):
            load_network(path, nn.Module)


@pytest.mark.parametrize(
    "odd",
    [
        {"branch_dim": -1},
        {"branch_dim": [4, 4]},
        {"branches": [7]},
        {"semantic": "none", "branches": []},
        {"semantic": "mahalanobis"},
    ],
)
def test_centres_whose_settings_are_none_are_refused_with_the_name_of_the_file(odd, tmp_path):
    settings, network = RobustTrainingSettings(semantic="pcl", branches=[2], branch_dim=4), WideResNet(10, 1, 2)
    path = tmp_path / SUPERVISION
    save_supervision(tmp_path, supervision_of(settings, network=network).state_dict(), settings)
    assert load_supervision(path, network)[1] == settings.alpha
    about = json.loads(settings.model_dump_json(include=MADE_OF)) | odd
    save_file(load_file(path), path, metadata={"supervision": json.dumps(about)})
    with pytest.raises(TrainingError, match=rf"cannot read centres from .*{SUPERVISION}: "):
        load_supervision(path, network)


@pytest.mark.parametrize("held", [b"", b"garbage", b"PK\x03\x04xx"])
def test_damaged_weights_are_named_without_advice_to_load_them_unsafely(tmp_path, held):
    (tmp_path / "weights.pt").write_bytes(held)
    with pytest.raises(
        SourceError, match=r"weights\.pt: not a file of plain tensors .*; save its state_dict"
    ) as refused:
        read_state(tmp_path / "weights.pt")
    assert "weights_only" not in str(refused.value)
