"""Training of the baseline and the robust network: losses, one step, one epoch. Plain torch, no Ray.

``raypurify train`` runs it on one machine (``single``), ``raypurify fit`` in Ray Train workers.
"""

from raypurify.training.batch import Batch
from raypurify.training.loop import train_epochs
from raypurify.training.losses import robust_semantic_loss, trades_loss
from raypurify.training.measure import measure, validate
from raypurify.training.order import epoch_order
from raypurify.training.step import Semantic, semantic_of

__all__ = [
    "Batch",
    "Semantic",
    "epoch_order",
    "measure",
    "robust_semantic_loss",
    "semantic_of",
    "trades_loss",
    "train_epochs",
    "validate",
]
