"""Real images for this room."""

import numpy as np
import pytest


@pytest.fixture
def cifar_pictures(cifar_images):
    """Sets of CIFAR-10's training images: ``count`` to train on, and four others."""
    from raypurify.training.data import ImageSet

    def sets(count: int):
        images, labels = cifar_images("train-0.parquet", count + 4)
        whole = ImageSet(np.arange(count + 4), labels.numpy(), (images * 255).round().byte().numpy())
        return whole.take(np.arange(count)), whole.take(np.arange(count, count + 4))

    return sets
