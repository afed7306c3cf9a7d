"""Kinds of training, told apart by the type of their settings: what a step minimises, what judges an epoch."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import nn

from raypurify.clusters import ClusterDistributions
from raypurify.config import (
    CompressionSettings,
    DecoderSettings,
    DenoisingSettings,
    RobustTrainingSettings,
    TrainingSettings,
)
from raypurify.training.compression import compression
from raypurify.training.denoising import denoising, validate_denoising
from raypurify.training.front_end import decoding, validate_decoding
from raypurify.training.measure import validate
from raypurify.training.step import Objective, check_attack, classification, robust, semantic_of
from raypurify.training.supervision import Supervision


class Kind(NamedTuple):
    """One kind of training: its objective, ``validate(network, batches, together=False)``, an epoch's figures, and what
    learns beside the network."""

    objective: Objective
    validate: Callable[..., dict[str, float]]
    supervision: Supervision | None = None


def kind_of(
    settings: TrainingSettings,
    distributions: ClusterDistributions | None = None,
    network: nn.Module | None = None,
    seed: int = 0,
) -> Kind:
    """The kind of training that settings are of: compression, denoising, decoding, robust or, by default,
    classification.

    ``distributions`` are the clusters that robust training pulls to; other semantic losses and branches are made for
    the bare ``network``, from ``seed``. Raises what ``supervision.supervision_of`` raises.

    >>> kind_of(TrainingSettings()).objective.__name__
    'classification'
    """
    if isinstance(settings, CompressionSettings):
        return Kind(partial(compression, settings), partial(validate_denoising, settings))
    if isinstance(settings, DenoisingSettings):
        return Kind(partial(denoising, settings), partial(validate_denoising, settings))
    if isinstance(settings, DecoderSettings):
        return Kind(partial(decoding, settings), partial(validate_decoding, settings))
    if isinstance(settings, RobustTrainingSettings):
        semantic = semantic_of(settings, distributions, network, seed)
        judged = partial(validate, attack=check_attack(settings.attack), distributions=distributions)
        return Kind(partial(robust, semantic), judged, semantic.supervision)
    return Kind(classification, validate)
