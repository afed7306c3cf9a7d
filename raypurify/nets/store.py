"""Networks on disk: one safetensors file, which for a WideResNet carries its architecture too."""

import json

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from raypurify.errors import TrainingError
from raypurify.nets.wide_resnet import WideResNet
from raypurify.storage import Where, resolve


def save_network(path: Where, network: nn.Module) -> None:
    """Write the weights of a network as safetensors, those of a WideResNet together with its architecture."""
    state = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    known = {"wide_resnet": json.dumps(network.settings)} if isinstance(network, WideResNet) else None
    resolve(path).write(save(state, metadata=known))


def load_network(path: Where) -> WideResNet:
    """Read a WideResNet that ``save_network`` wrote, in evaluation mode.

    Raises TrainingError naming the file when it cannot.
    """
    try:
        data = resolve(path).read()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        network = WideResNet(**json.loads(header["__metadata__"]["wide_resnet"]))
        network.load_state_dict(load(data))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as e:
        raise TrainingError(f"cannot read a network from {path}: {e}; check the path, or train again") from e
    return network.eval()


def load_weights(path: Where, network: nn.Module) -> None:
    """Give ``network`` the weights that ``save_network`` wrote of another of its architecture, whatever that is.

    Raises TrainingError naming the file when it cannot.
    """
    try:
        network.load_state_dict(load(resolve(path).read()))
    except (OSError, SafetensorError, RuntimeError) as e:
        raise TrainingError(
            f"cannot read weights from {path}: {' '.join(str(e).split())[:300]}; check the path, or train again"
        ) from e
