"""Mixed sizes, files and failures through a purifier that takes one size at a time."""

from functools import partial

import numpy as np
import torch
from bad_images import broken_images, encode, odd_images, pixels

import raypurify
from raypurify.errors import ImageError
from raypurify.images import decode_image
from raypurify.purifiers import Purified
from raypurify.purifiers.batch import purify_files, purify_pixels


class Failing:
    """A purifier that cannot do images of one size."""

    min_size, classes_of_cluster, digest = 8, ["a"], "d"

    def __init__(self):
        self.batches = []

    def purify(self, images):

        self.batches.append(len(images))
        if images.shape[-1] == 13:
            raise ValueError("unlucky")
        zeros = torch.zeros(len(images))
        return Purified(1 - images, zeros.long(), zeros, zeros.bool(), zeros, zeros.long())


def test_a_batch_groups_sizes_and_keeps_errors_apart():
    images = [pixels(*size, seed=i) for i, size in enumerate([(9, 9), (9, 13), (7, 9), (9, 9), (9, 9), (20, 20)])]
    purifier = Failing()
    results = purify_pixels(purifier, images, batch_pixels=2 * 81)
    assert sorted(purifier.batches) == [1, 1, 1, 2]
    for i in (0, 3, 4, 5):
        np.testing.assert_array_equal(results[i][0], 255 - images[i])
        assert results[i][1]["class"] == "a"
    assert isinstance(results[1], ValueError)
    assert (results[2].reason, str(results[2])) == ("too-small", "9×7 is too small: each side needs at least 8 pixels")


def test_files_of_every_kind_come_out_or_are_named():
    purify = partial(purify_pixels, raypurify.load("cifar10"))
    files = {name: data for name, (data, _) in (odd_images() | broken_images()).items()}
    results = {name: (image, facts) for name, image, facts in purify_files(purify, files.items())}
    assert set(results) == set(files)
    for name, (_, reason) in broken_images().items():
        assert results[name][0].reason == reason
    for name, (data, mode) in odd_images().items():
        image, facts = results[name]
        if name in ("one-pixel.png", "thin.png"):
            assert isinstance(image, ImageError)
            assert image.reason == "too-small"
            continue
        before, after = decode_image(data), decode_image(image)
        assert after.pixels.shape == before.pixels.shape
        assert (facts["width"], facts["height"]) == before.pixels.shape[1::-1]
        assert after.mode == mode
        if before.alpha is not None:
            np.testing.assert_array_equal(after.alpha, before.alpha)


def test_files_do_not_wait_for_the_end_when_the_window_is_full(monkeypatch):
    monkeypatch.setattr("raypurify.purifiers.batch.WINDOW_PIXELS", 3 * 24 * 20)
    asked = []

    def files():
        for i in range(12):
            asked.append(i)
            yield i, encode(pixels(seed=i))

    results = purify_files(partial(purify_pixels, raypurify.load("cifar10")), files())
    next(results)
    assert len(asked) == 4
    assert {key for key, _, _ in results} == set(range(1, 12))
