"""A WideResNet on disk: one safetensors file that carries its own architecture."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from raypurify.errors import TrainingError
from raypurify.nets.wide_resnet import WideResNet


def save_network(path: Path, network: WideResNet) -> None:
    """Write weights and architecture; float32."""
    state = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    save_file(state, path, metadata={"wide_resnet": json.dumps(network.settings)})


def load_network(path: Path) -> WideResNet:
    """Read what ``save_network`` wrote, in evaluation mode. Raises TrainingError naming the file when it cannot."""
    try:
        with safe_open(path, "pt") as file:
            network = WideResNet(**json.loads(file.metadata()["wide_resnet"]))
            network.load_state_dict({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as e:
        raise TrainingError(f"cannot read a network from {path}: {e}") from e
    return network.eval()
