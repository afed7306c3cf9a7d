"""The joint attacker: through the sparse coding to the classifier, and towards a wrong cluster, in one gradient."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from raypurify.attacks.adaptive import cluster_scores, through_solver
from raypurify.attacks.base import Model
from raypurify.errors import ConfigError
from raypurify.nets.straight import straight_through

if TYPE_CHECKING:
    from raypurify.purifiers import Bundled


def joint(classifier: Model, purifier: "Bundled", weight: float = 1.0, rel_tol: float = 1e-3) -> Model:
    """The model classifier(purify(x)), whose gradient also pulls to clusters of the class that the logit belongs to.

    ``adaptive.through_solver`` does not see that another cluster's atoms may serve it better, and
    ``adaptive.attack_choice`` not what the classifier makes of them. Here the logits Z(x) have the gradient of

        Z_c(x) + weight · a(x) · S_c(x), S_c = max over the clusters k of class c of −distance(x, k),

    where a = std_c Z / std_c S, a constant to autograd, brings both to one scale. An attack that drives the label's
    logit down and another class's up thus moves the image from the label's clusters to those of that class as well.
    The values are the classifier's alone. Raises ConfigError where it has other classes than the purifier's bundle, and
    for a purifier whose clusters are of no class.

    >>> import raypurify
    >>> purifier, x = raypurify.load("cifar10"), torch.rand(1, 3, 32, 32)
    >>> torch.equal(joint(purifier.network, purifier)(x), purifier.network(purifier.purify(x).images))
    True
    """
    if None in purifier.classes_of_cluster:
        raise ConfigError(
            f"the joint attack needs clusters of classes, and those of the method {purifier.bundle.manifest.method} "
            "are of none: attack through the solver, or the choice of the cluster, alone"
        )
    plain, scores = through_solver(classifier, purifier, rel_tol), cluster_scores(purifier)
    of_cluster = torch.tensor(purifier.bundle.manifest.cluster_class, device=purifier.device)
    classes = len(purifier.bundle.manifest.classes)

    def model(images: Tensor) -> Tensor:
        logits = plain(images)
        if not logits.requires_grad:
            return logits
        if logits.shape[1] != classes:
            raise ConfigError(
                f"the joint attack needs a classifier of the bundle's {classes} classes, "
                f"and this one has {logits.shape[1]}: attack through the solver alone"
            )
        return straight_through(logits + weight * _in_scale(class_scores(scores(images), of_cluster), logits), logits)

    return model


def class_scores(scores: Tensor, of_cluster: Tensor) -> Tensor:
    """The best score (N, C) of the clusters of each class, from those of all (N, K) and their classes (K,).

    >>> class_scores(torch.tensor([[-1.0, -3.0, -2.0]]), torch.tensor([0, 1, 1]))
    tensor([[-1., -2.]])
    """
    none = scores.new_full((len(scores), int(of_cluster.max()) + 1), -torch.inf)
    return none.scatter_reduce(1, of_cluster.expand_as(scores), scores, "amax")


def _in_scale(scores: Tensor, logits: Tensor) -> Tensor:
    spread, wanted = (part.detach().std(1, keepdim=True) for part in (scores, logits))
    return scores * (wanted / spread.clamp_min(1e-12))
