"""Images of any sizes through a purifier that wants one size at a time; as pixels, or as files in and files out."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import torch

from raypurify.errors import ImageError
from raypurify.images import MAX_PIXELS, Decoded, decode_image, encode_image, to_float, to_pixels
from raypurify.purifiers.beside import Coders, Facts
from raypurify.purifiers.bundled import Bundled
from raypurify.purifiers.localisation import share_of

BATCH_PIXELS, WINDOW_PIXELS = 1 << 18, 1 << 24


def purify_pixels(
    purifier: Bundled, images: Sequence[np.ndarray], batch_pixels: int = BATCH_PIXELS
) -> list[tuple[np.ndarray, Facts] | Exception]:
    """Purify uint8 images (H, W, 3): for each, in order, the purified pixels and their provenance, or what went wrong.

    Equal sizes go together, at most ``batch_pixels`` pixels at a time but at least one image. An image below the
    purifier's ``min_size`` gets an :class:`ImageError`; an error in one group leaves the other groups alone.
    """
    results: list = [None] * len(images)
    for group in size_groups(images, batch_pixels):
        height, width = images[group[0]].shape[:2]
        if min(height, width) < purifier.min_size:
            text = f"{width}×{height} is too small: each side needs at least {purifier.min_size} pixels"
            for i in group:
                results[i] = ImageError("too-small", text)
            continue
        try:
            for i, result in zip(group, _purify_group(purifier, [images[i] for i in group])):
                results[i] = result
        except Exception as error:  # one group's failure is for its callers to see, not for the whole batch
            for i in group:
                results[i] = error
    return results


def _purify_group(purifier: Bundled, images: list[np.ndarray]) -> list[tuple[np.ndarray, Facts]]:
    """Images of one size, together; nothing of them stays in memory but the results."""
    batch = np.empty((len(images), 3, *images[0].shape[:2]), np.float32)
    for k, image in enumerate(images):
        batch[k] = to_float(image)
    done = purifier.purify(torch.from_numpy(batch))
    results = []
    for k in range(len(images)):
        cluster = int(done.cluster[k])
        facts: Facts = {
            "cluster": cluster,
            "class": purifier.classes_of_cluster[cluster],
            "distance": float(done.distance[k]),
            "flagged": bool(done.flagged[k]),
            "relative_change": float(done.relative_change[k]),
            "iterations": int(done.iterations[k]),
            "bundle": purifier.digest,
        }
        if done.region is not None:
            box = done.region[k]
            facts |= {"region": box.tolist(), "region_share": float(share_of(box[None], *images[k].shape[:2]))}
        results.append((to_pixels(done.images[k].cpu().numpy()), facts))
    return results


def purify_files(
    purify: Callable[[list[np.ndarray]], list],
    files: Iterable[tuple[Hashable, bytes]],
    format: str = "png",
    max_pixels: int = MAX_PIXELS,
    compression: str = "small",
    coders: int = 0,
    waits: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Hashable, bytes | ImageError, Facts | None]]:
    """Purify (key, file bytes) pairs; yields (key, encoded image, provenance) or (key, ImageError, None), in any order.

    ``purify``, what is purified together and what is raised are those of :func:`purify_opened`. With ``coders``, so
    many threads decode and encode while ``purify`` is at work (:mod:`raypurify.purifiers.beside`), to which as much is
    given at a time as ``purify_pixels`` purifies together; ``waits`` is called before a decoder is waited for.
    """
    if coders:
        encode = partial(encode_image, format=format, compression=compression)
        with Coders(coders, partial(_opened, max_pixels=max_pixels), encode) as threads:
            opened = threads.decoded(files, waits)
            yield from threads.encoded(purify_opened(purify, opened, BATCH_PIXELS))
        return
    opened = ((key, _opened(data, max_pixels)) for key, data in files)
    for key, result in purify_opened(purify, opened):
        if isinstance(result, ImageError):
            yield key, result, None
            continue
        pixels, like, facts = result
        try:
            yield key, encode_image(pixels, like, format, compression), facts
        except ImageError as error:
            yield key, error, None


def purify_opened(
    purify: Callable[[list[np.ndarray]], list],
    opened: Iterable[tuple[Hashable, Decoded | ImageError]],
    batch_pixels: int | None = None,
) -> Iterator[tuple[Hashable, tuple[np.ndarray, Decoded, Facts] | ImageError]]:
    """Purify (key, decoded image) pairs; yields (key, (purified pixels, the image, provenance)), in any order.

    ``purify`` does what :func:`purify_pixels` does, here or elsewhere: a list of pixels in, a list of results out. An
    ImageError in the place of an image comes back as it is, and so does one of ``purify``.

    Decoded images wait for company of their size until 2²⁴ pixels are together, so memory is bounded and mixed sizes
    still fill batches. With ``batch_pixels``, a batch of :func:`size_groups` is given to ``purify`` as soon as it is
    full, and not with all that is together. What is purified together depends on the input alone, and not on this: the
    same input gives the same bytes. Raises what ``purify`` raised for another reason than the image.
    """
    # By size, or all at one place.
    together: dict[tuple[int, ...], list[tuple[Hashable, Decoded]]] = {}
    pending = 0
    for key, image in opened:
        if isinstance(image, ImageError):
            yield key, image
            continue
        shape = image.pixels.shape if batch_pixels else ()
        together.setdefault(shape, []).append((key, image))
        pending += image.pixels[..., 0].size
        if pending > WINDOW_PIXELS:
            for size in [*together]:
                yield from _purify_window(purify, together.pop(size))
            pending = 0
        elif batch_pixels and len(together[shape]) == _fits(shape, batch_pixels):
            yield from _purify_window(purify, together.pop(shape))
    for size in [*together]:
        yield from _purify_window(purify, together.pop(size))


def _opened(data: bytes, max_pixels: int) -> Decoded | ImageError:
    try:
        return decode_image(data, max_pixels=max_pixels)
    except ImageError as error:
        return error


def _purify_window(purify: Callable, window: list[tuple[Hashable, Decoded]]) -> Iterator:
    for (key, decoded), result in zip(window, purify([decoded.pixels for _, decoded in window])):
        if isinstance(result, ImageError):
            yield key, result
            continue
        if isinstance(result, Exception):
            raise result
        pixels, facts = result
        yield (
            key,
            (pixels, decoded, facts | {"mode": decoded.mode, "width": pixels.shape[1], "height": pixels.shape[0]}),
        )


def size_groups(images: Sequence[np.ndarray], batch_pixels: int = BATCH_PIXELS) -> Iterator[list[int]]:
    """Which images (H, W, 3) are purified together: positions of equal sizes, at most ``batch_pixels`` pixels a group.

    >>> list(size_groups([np.zeros((2, 2, 3)), np.zeros((1, 2, 3)), np.zeros((2, 2, 3)), np.zeros((2, 2, 3))], 8))
    [[0, 2], [3], [1]]
    """
    sizes: dict[tuple[int, ...], list[int]] = {}
    for i, image in enumerate(images):
        sizes.setdefault(image.shape, []).append(i)
    for size, members in sizes.items():
        step = _fits(size, batch_pixels)
        for first in range(0, len(members), step):
            yield members[first : first + step]


def _fits(shape: tuple[int, ...], batch_pixels: int) -> int:
    """How many images (H, W, 3) of one size are purified together."""
    return max(1, batch_pixels // (shape[0] * shape[1]))
