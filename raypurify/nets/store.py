"""Networks on disk: one safetensors file, which for a WideResNet carries its architecture too."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from raypurify.errors import TrainingError
from raypurify.nets.wide_resnet import WideResNet


def save_network(path: Path, network: nn.Module) -> None:
    """Write the weights of a network as safetensors, those of a WideResNet together with its architecture."""
    state = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    known = {"wide_resnet": json.dumps(network.settings)} if isinstance(network, WideResNet) else None
    save_file(state, path, metadata=known)


def load_network(path: Path) -> WideResNet:
    """Read a WideResNet that ``save_network`` wrote, in evaluation mode.

    Raises TrainingError naming the file when it cannot.
    """
    try:
        with safe_open(path, "pt") as file:
            network = WideResNet(**json.loads(file.metadata()["wide_resnet"]))
            network.load_state_dict({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as e:
        raise TrainingError(f"cannot read a network from {path}: {e}; check the path, or train again") from e
    return network.eval()


def load_weights(path: Path, network: nn.Module) -> None:
    """Give ``network`` the weights that ``save_network`` wrote of another of its architecture, whatever that is.

    Raises TrainingError naming the file when it cannot.
    """
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as e:
        raise TrainingError(
            f"cannot read weights from {path}: {' '.join(str(e).split())[:300]}; check the path, or train again"
        ) from e
