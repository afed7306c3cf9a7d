"""Semantic losses: what holds a network's features to their cluster or their class while it trains.

Each is one module with its equation, under the contract of ``contract.SemanticLoss``; ``robust.semantic`` names one.
"""

from collections.abc import Callable

from raypurify.clusters import ClusterDistributions
from raypurify.supervision import SupervisionSettings
from raypurify.training.semantic.center import Center
from raypurify.training.semantic.contract import SemanticLoss
from raypurify.training.semantic.contrastive import Contrastive
from raypurify.training.semantic.mahalanobis import Mahalanobis
from raypurify.training.semantic.pcl import PrototypeConformity
from raypurify.training.semantic.triplet import Triplet

__all__ = [
    "SEMANTIC_LOSSES",
    "Center",
    "Contrastive",
    "Mahalanobis",
    "PrototypeConformity",
    "SemanticLoss",
    "Triplet",
]

SEMANTIC_LOSSES: dict[str, Callable[[SupervisionSettings, int, int, ClusterDistributions | None], SemanticLoss]] = {
    "mahalanobis": lambda how, classes, dim, clusters: Mahalanobis(clusters),  # type: ignore[arg-type]  # there are some
    "pcl": lambda how, classes, dim, clusters: PrototypeConformity(classes, dim, how.push),
    "center": lambda how, classes, dim, clusters: Center(classes, dim),
    "contrastive": lambda how, classes, dim, clusters: Contrastive(how.margin),
    "triplet": lambda how, classes, dim, clusters: Triplet(how.margin),
}
"""The losses by their names: what makes one of settings, for so many classes and features, or of the clusters."""
