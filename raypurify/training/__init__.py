"""Training of networks, classifiers and denoisers: losses, one step, one epoch. Plain torch, no Ray.

``raypurify train`` runs it on one machine (``single``), ``raypurify fit`` in Ray Train workers.
"""

from raypurify.training.batch import Batch
from raypurify.training.kinds import kind_of
from raypurify.training.loop import train_epochs
from raypurify.training.losses import robust_semantic_loss, trades_loss
from raypurify.training.measure import measure, validate
from raypurify.training.order import epoch_order
from raypurify.training.step import Semantic, classification, robust, semantic_of

__all__ = [
    "Batch",
    "Semantic",
    "classification",
    "epoch_order",
    "kind_of",
    "measure",
    "robust",
    "robust_semantic_loss",
    "semantic_of",
    "trades_loss",
    "train_epochs",
    "validate",
]
