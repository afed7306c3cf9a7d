"""A training between two steps: everything that a resumed run needs to equal the uninterrupted one."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raypurify.errors import TrainingError, of_file
from raypurify.storage import Where, resolve
from raypurify.training.guard import Guard
from raypurify.training.supervision import Supervision


@dataclass
class Run:
    """The parts of a training that change: weights, their average, optimiser, schedule, guard, epochs done; and what
    learns beside the network, with the optimiser of its centres.

    And of the epoch under way, the steps done and their sums of loss and other figures, images, and seconds. ``keep``
    says which epoch's weights stay, the last or the best.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    average: nn.Module | None = None
    guard: Guard | None = None
    keep: str = "last"
    supervision: Supervision | None = None
    centres: torch.optim.Optimizer | None = None
    epochs: int = 0
    stopped: str | None = None
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    images: int = 0
    seconds: float = 0.0

    @property
    def kept(self) -> nn.Module:
        """The network that is validated and kept: the average where there is one."""
        return self.network if self.average is None else self.average

    @property
    def beside(self) -> dict[str, Tensor]:
        """The centres and branches that learn beside the network, the live tensors; empty where there are none."""
        return {} if self.supervision is None else self.supervision.state_dict()

    def zero_grad(self) -> None:
        """Forget the last step's gradients."""
        for optimizer in (self.optimizer, self.centres):
            if optimizer is not None:
                optimizer.zero_grad(set_to_none=True)

    def checkpoint(self) -> dict[str, Any]:
        """A tree of tensors, numbers and strings. The tensors are the live ones: write or copy it before going on."""
        return {
            "epochs": self.epochs,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.last_epoch,
            "average": None if self.average is None else self.average.state_dict(),
            "best": self.guard.best if self.guard else {},
            "stopped": self.stopped,
            "keep": self.keep,
            "supervision": self.beside,
            "centres": None if self.centres is None else self.centres.state_dict(),
            "within": {"step": self.step, "sums": self.sums, "images": self.images, "seconds": self.seconds},
        }

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """Take up a checkpoint's state. Raises TrainingError where it is of another network or other settings."""
        try:
            self.network.load_state_dict(checkpoint["network"])
            self.optimizer.load_state_dict(checkpoint["optimizer"])
            self.schedule.last_epoch = checkpoint["schedule"]
            for group, factor in zip(self.optimizer.param_groups, self.schedule.lr_lambdas):
                group["lr"] = group["initial_lr"] * factor(self.schedule.last_epoch)
            if self.average is not None:
                self.average.load_state_dict(checkpoint["average"] or {})
            if self.guard is not None:
                self.guard.best = checkpoint.get("best", {})
            # Checkpoints of before there were centres and branches have no such part.
            if self.supervision is not None:
                self.supervision.load_state_dict(checkpoint.get("supervision", {}))
            if self.centres is not None:
                self.centres.load_state_dict(checkpoint["centres"])
            self.epochs, self.stopped = checkpoint["epochs"], checkpoint.get("stopped")
            self.move_to(**checkpoint.get("within", {}))
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as e:
            message = f"the checkpoint does not fit this network: {e}; train into a new run directory"
            raise TrainingError(message) from e

    def move_to(
        self, step: int = 0, sums: dict[str, float] | Sequence[float] = (), images: int = 0, seconds: float = 0.0
    ) -> None:
        """Set where in an epoch the training is, at its beginning by default. Checkpoints of before figures had names
        have ``sums`` without."""
        self.step, self.images, self.seconds = step, images, seconds
        self.sums = dict(sums if isinstance(sums, dict) else zip(("loss", "accuracy", "distance"), sums))


def final_weights(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The weights a training is kept with: the best epoch's where the guard stopped it or the settings ask for them,
    the average's where there is one, otherwise the last.

    >>> final_weights({"network": {"w": 1}, "average": {"w": 2}, "stopped": None})
    {'w': 2}
    """
    if _of_the_best(checkpoint):
        return checkpoint["best"]["weights"]
    return checkpoint.get("average") or checkpoint["network"]


def final_supervision(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The centres and branches that learned beside the ``final_weights``, of the same epoch; empty without any.

    Of a checkpoint of before the best epoch's were held they are the last.

    >>> final_supervision({"supervision": {"c": 1}, "best": {"supervision": {"c": 2}}, "keep": "best"})
    {'c': 2}
    """
    last = checkpoint.get("supervision", {})
    return checkpoint["best"].get("supervision", last) if _of_the_best(checkpoint) else last


def _of_the_best(checkpoint: dict[str, Any]) -> bool:
    return bool(checkpoint.get("stopped")) or checkpoint.get("keep") == "best"


def write_checkpoint(path: Path, checkpoint: dict[str, Any]) -> None:
    """Replace the file in one step: whatever stops the process, a whole checkpoint is there."""
    with resolve(path).writing() as file:
        torch.save(checkpoint, file)


def read_checkpoint(path: Path, folder: Where | None = None) -> dict[str, Any]:
    """Read what ``write_checkpoint`` wrote, onto the CPU. Raises TrainingError, by name, where it cannot be read, and
    says that it is to be removed, or the ``folder`` of its stage."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(found, dict) or not isinstance(found.get("epochs"), int):
            raise ValueError("it holds something else")
    except MemoryError:
        raise
    except Exception as e:  # torch has many
        remove = f"the folder {folder}" if folder else "it"
        raise TrainingError(
            f"cannot read the checkpoint {path}: {of_file(e)}; remove {remove} to train from the start"
        ) from e
    return found
