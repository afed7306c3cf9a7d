"""Networks on disk: one safetensors file, which for a network that raypurify trains carries its architecture too."""

import json
from typing import Any, TypeVar, overload

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from raypurify.errors import TrainingError, one_line
from raypurify.nets.bottleneck_resnet import BottleneckResNet
from raypurify.nets.cnn6 import CNN6
from raypurify.nets.compression import CompressionNetwork
from raypurify.nets.dae import DenoisingAutoEncoder
from raypurify.nets.dncnn import DnCNN
from raypurify.nets.encoder import Encoder
from raypurify.nets.front_end import DefendedClassifier, FrontEnd
from raypurify.nets.reformer import Reformer
from raypurify.nets.vgg import VGG16
from raypurify.nets.wide_resnet import WideResNet
from raypurify.storage import Where, resolve

# By the name under which a file has the settings of its network.
ARCHITECTURES: dict[str, type[nn.Module]] = {
    "wide_resnet": WideResNet,
    "dae": DenoisingAutoEncoder,
    "reformer": Reformer,
    "dncnn": DnCNN,
    "comdefend": CompressionNetwork,
    "vgg16": VGG16,
    "bottleneck_resnet": BottleneckResNet,
    "cnn6": CNN6,
    "front_end": FrontEnd,
    "defended_classifier": DefendedClassifier,
}

Net = TypeVar("Net", bound=nn.Module)


def save_network(path: Where, network: nn.Module) -> None:
    """Write the weights of a network as safetensors, those of one of ``ARCHITECTURES`` together with its settings."""
    state = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    known = {name: json.dumps(network.settings) for name, kind in ARCHITECTURES.items() if type(network) is kind}
    resolve(path).write(save(state, metadata=known or None))


@overload
def load_network(path: Where) -> Encoder: ...
@overload
def load_network(path: Where, kind: type[Net]) -> Net: ...
def load_network(path: Where, kind: type[nn.Module] = Encoder) -> nn.Module:
    """Read a network that ``save_network`` wrote with its settings, in evaluation mode: one with latents, or of
    another ``kind``.

    Raises TrainingError naming the file when it cannot, and where the file holds a network of another kind.
    """
    try:
        data = resolve(path).read()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        about: dict[str, Any] = header["__metadata__"]
        name = next((name for name in ARCHITECTURES if name in about), None)
        if name is None:
            raise KeyError("it does not say of which architecture the weights are")
        settings, state = dict(json.loads(about[name])), load(data)
        if settings.get("depth", 0) > len(state):
            # Layers are made one by one, for as long as it takes; each has a tensor at least.
            raise ValueError(f"a network of depth {settings['depth']} has more than {len(state)} tensors")
        with torch.device("meta"):
            # The file says how large the network is: one that its weights do not fit takes no memory.
            ARCHITECTURES[name](**settings).load_state_dict(state, assign=True)
        network = ARCHITECTURES[name](**settings)
        network.load_state_dict(state)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError, ArithmeticError) as e:
        raise TrainingError(f"cannot read a network from {path}: {one_line(e)}; check the path, or train again") from e
    if not isinstance(network, kind):
        raise TrainingError(f"{path} holds a {type(network).__name__}, not a {kind.__name__}; give the file of one")
    return network.eval()


def load_weights(path: Where, network: nn.Module) -> None:
    """Give ``network`` the weights that ``save_network`` wrote of another of its architecture, whatever that is.

    Raises TrainingError naming the file when it cannot.
    """
    try:
        network.load_state_dict(load(resolve(path).read()))
    except (OSError, SafetensorError, RuntimeError) as e:
        raise TrainingError(
            f"cannot read weights from {path}: {one_line(e)[:300]}; check the path, or train again"
        ) from e
