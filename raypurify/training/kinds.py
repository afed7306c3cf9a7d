"""Kinds of training, told apart by the type of their settings: what a step minimises, what judges an epoch."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from raypurify.clusters import ClusterDistributions
from raypurify.config import CompressionSettings, DenoisingSettings, RobustTrainingSettings, TrainingSettings
from raypurify.training.compression import compression
from raypurify.training.denoising import denoising, validate_denoising
from raypurify.training.measure import validate
from raypurify.training.step import Objective, check_attack, classification, robust, semantic_of


class Kind(NamedTuple):
    """One kind of training: its objective, and ``validate(network, batches, together=False)``, an epoch's figures."""

    objective: Objective
    validate: Callable[..., dict[str, float]]


def kind_of(settings: TrainingSettings, distributions: ClusterDistributions | None = None) -> Kind:
    """The kind of training that settings are of: compression, denoising, robust or, by default, classification.

    ``distributions`` are the clusters that robust training pulls to. Raises ConfigError where it lacks them.

    >>> kind_of(TrainingSettings()).objective.__name__
    'classification'
    """
    if isinstance(settings, CompressionSettings):
        return Kind(partial(compression, settings), partial(validate_denoising, settings))
    if isinstance(settings, DenoisingSettings):
        return Kind(partial(denoising, settings), partial(validate_denoising, settings))
    if isinstance(settings, RobustTrainingSettings):
        return Kind(
            partial(robust, semantic_of(settings, distributions)),
            partial(validate, attack=check_attack(settings.attack), distributions=distributions),
        )
    return Kind(classification, validate)
