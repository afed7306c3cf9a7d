"""Training of the baseline and the robust network: losses, one step, one epoch. Plain torch, no Ray."""

from raypurify.training.loop import Batch, train_epochs
from raypurify.training.losses import robust_semantic_loss
from raypurify.training.measure import measure

__all__ = ["Batch", "measure", "robust_semantic_loss", "train_epochs"]
