"""What a robust training adds to a network while it trains: at each chosen place a semantic loss, and branches.

Deep supervision is Mustafa et al., equations 8 to 10: an auxiliary branch G_φ behind a group of layers has losses like
those at the network's end. Nothing of it is part of the trained network.
"""

import json
from collections.abc import Iterator

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional as F

from raypurify.clusters import ClusterDistributions
from raypurify.config import RobustTrainingSettings, TrainingSettings
from raypurify.errors import ConfigError, TrainingError, one_line
from raypurify.nets.places import LATENTS, behind, head_of, widths_at
from raypurify.storage import Where, resolve
from raypurify.supervision import OF_CLASSES
from raypurify.training.semantic import SEMANTIC_LOSSES, Mahalanobis, SemanticLoss
from raypurify.training.start import drawn_network
from raypurify.training.together import average_gradients

SUPERVISION = "supervision.safetensors"
# The settings that decide what it is made of.
MADE_OF = {"alpha", "semantic", "push", "margin", "latents", "branches", "branch_dim"}


class Branch(nn.Module):
    """An auxiliary branch G_φ: a linear map of a group's pooled output (N, channels) to f^l (N, dim), and its logits.

    Mustafa et al., eq. 10 and Tables 1 and 10: global average pool, then a fully connected layer, which some of their
    branches have not (``dim`` 0: f^l is the pooled output); one more has the classes.

    >>> import torch
    >>> [tuple(part.shape) for part in Branch(16, dim=8, classes=2)(torch.rand(3, 16))]
    [(3, 8), (3, 2)]
    """

    def __init__(self, channels: int, dim: int, classes: int):
        super().__init__()
        self.embed = nn.Linear(channels, dim) if dim else nn.Identity()
        self.classify = nn.Linear(dim or channels, classes)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        features = self.embed(pooled)
        return features, self.classify(features)


class Supervision(nn.Module):
    """The semantic losses and the branches of a training, by the names of their places (``nets.places``).

    Called with the features that ``nets.places.features_at`` finds at the ``places``, the labels and the clusters of
    the images, it gives for each image the sum of the semantic losses (N,) and that of the branches' cross-entropies
    (N,), None where there is no branch, and figures, means by name. The branches learn with the network, by its
    optimiser; ``centres`` have their own.

    >>> import torch
    >>> held = Supervision({"latents": SEMANTIC_LOSSES["pcl"](RobustTrainingSettings(), 2, 4, None)})
    >>> values, entropies, figures = held({"latents": torch.rand(3, 4)}, torch.tensor([0, 1, 1]))
    >>> values.shape, entropies, list(figures)
    (torch.Size([3]), None, ['pcl'])
    """

    def __init__(self, losses: dict[str, SemanticLoss], branches: dict[str, Branch] | None = None):
        super().__init__()
        self.losses, self.branches = nn.ModuleDict(losses), nn.ModuleDict(branches or {})

    @property
    def places(self) -> list[str]:
        """Where it looks at features."""
        return list(dict.fromkeys((*self.losses, *self.branches)))

    @property
    def centres(self) -> list[nn.Parameter]:
        """The parameters of the losses."""
        return list(self.losses.parameters())

    def forward(
        self, found: dict[str, Tensor], labels: Tensor, clusters: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """The sums over the places, and means by name: ``pcl`` of the latents, ``pcl_group2`` and ``loss_group2`` of a
        branch."""
        values, entropies = found[self.places[0]].new_zeros(len(labels)), None
        figures = {}
        for place in self.places:
            features, end = found[place], "" if place == LATENTS else f"_{place}"
            if place in self.branches:
                features, logits = self.branches[place](features)
                of_branch = F.cross_entropy(logits, labels, reduction="none")
                figures[f"loss{end}"] = of_branch.mean()
                entropies = of_branch if entropies is None else entropies + of_branch
            if place in self.losses:
                of_images = self.losses[place](features, labels, clusters)
                figures[f"{self.losses[place].figure}{end}"] = of_images.mean()
                values = values + of_images
        return values, entropies, figures

    def settle(self, together: bool) -> None:
        """Make the gradients of centres and branches those of all workers, and what the centres' optimiser steps by.

        In a step without them, as in those before ``warm_up``, there is nothing to do.
        """
        if together:
            average_gradients(self.parameters())
        for loss in self._losses():
            if all(centre.grad is not None for centre in loss.parameters()):
                loss.settle(together)

    def _losses(self) -> Iterator[SemanticLoss]:
        for loss in self.losses.values():
            assert isinstance(loss, SemanticLoss)
            yield loss


def to_clusters(distributions: ClusterDistributions) -> Supervision:
    """The pull of RSFP alone: of the latents to the clusters of a fit."""
    return Supervision({LATENTS: Mahalanobis(distributions)})


def supervision_of(
    settings: RobustTrainingSettings,
    distributions: ClusterDistributions | None = None,
    network: nn.Module | None = None,
    seed: int = 0,
) -> Supervision | None:
    """What the settings ask for, for a ``network``, on its device; centres and branches are drawn from ``seed``.

    None where they ask for nothing. The pull to the clusters needs ``distributions`` and no network; where these are
    given and ``alpha`` is 0, it is there to be told.

    Raises ConfigError where it lacks them, and for a network without the places, or without those groups.
    """
    name, alpha = settings.semantic, settings.alpha
    if name == "mahalanobis":
        if alpha and distributions is None:
            raise ConfigError(f"robust.alpha is {alpha}, but there are no clusters: give them, or set it to 0")
        return None if distributions is None else to_clusters(distributions)
    if name == "none" and not settings.branches:
        return None
    assert network is not None  # who trains has one
    mapped = {behind(group): dim for group, dim in settings.branch_dims.items()}
    where = [*mapped, *([LATENTS] if settings.latents and name in OF_CLASSES else [])]
    widths, classes = widths_at(network, where), head_of(network).out_features

    def make() -> Supervision:
        branches = {place: Branch(widths[place], dim, classes) for place, dim in mapped.items()}
        dims = {place: mapped.get(place) or widths[place] for place in where}
        kind = SEMANTIC_LOSSES.get(name)
        losses = {place: kind(settings, classes, dim, None) for place, dim in dims.items()} if kind else {}
        return Supervision(losses, branches)

    return drawn_network(make, seed).to(next(network.parameters()).device)


def save_supervision(folder: Where, weights: dict[str, Tensor], settings: TrainingSettings) -> None:
    """Write the centres and branches that learned beside the network that a training keeps, where it had any."""
    if weights:
        about = json.dumps(settings.model_dump(include=MADE_OF))
        held = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
        (resolve(folder) / SUPERVISION).write(save(held, metadata={"supervision": about}))


def load_supervision(file: Where, network: nn.Module) -> tuple[Supervision, float]:
    """The centres and branches in a file that ``save_supervision`` wrote, for the network that learned with them, in
    evaluation mode and frozen; and their weight α.

    Raises TrainingError naming the file where it cannot be read, or is of another network, as one without the places.
    """
    try:
        data = resolve(file).read()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        settings = RobustTrainingSettings(**json.loads(header["__metadata__"]["supervision"]))
        state = load(data)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as e:
        raise _unreadable(file, e) from e
    try:
        held = supervision_of(settings, network=network)
        if held is None:
            raise ConfigError("its settings hold features by nothing")
        held.load_state_dict(state)
    except (ConfigError, RuntimeError) as e:
        raise _unreadable(file, e) from e
    return held.eval().requires_grad_(False), settings.alpha


def _unreadable(file: Where, error: Exception) -> TrainingError:
    return TrainingError(
        f"cannot read centres from {file}: {one_line(error)[:300]}; "
        f"give the {SUPERVISION} beside the network that it is of"
    )
