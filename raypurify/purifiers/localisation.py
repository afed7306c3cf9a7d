"""The object region of an image, after RegionSparse (Zhang et al., section IV-C): where its edges are.

From the lightness on all of it is whole numbers, and the lightness is rounded after operations of one value each, in an
order that is written down: no sum whose order the batch, the layout or the device decides moves a box.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

# Of red, green and blue in the lightness of a pixel (ITU-R BT.601).
LIGHTNESS = (0.299, 0.587, 0.114)
# The shorter side in which the blur, the closing and the opening are one step wide.
STEP = 32


@dataclass(frozen=True)
class Boxes:
    """The box of each image's object region, (N, 4) int64: left, top, right, bottom in pixels, the last two exclusive;
    ``found`` (N,), False where there are no edges and the box is the whole image."""

    boxes: Tensor
    found: Tensor


def object_boxes(images: Tensor, least: int = 1) -> Boxes:
    """The boxes of the object regions of images (N, 3, H, W) in [0, 1].

    The image gradient is G = G_x − G_y of the Sobel operator, which the paper takes "to preserve the region with high
    horizontal gradient and low vertical gradient". The rest the paper names and gives no numbers for: G is taken
    without its sign and blurred, binarised by Otsu's threshold, closed and opened; the largest connected region is the
    object, and its box is what is coded. Blur, closing and opening grow with the image: they are 3 pixels wide, 7 and
    3 at 32², and so many more at larger sizes.

    Where nothing is found, as in an image of one colour, the box is the whole image: all is coded. A box is widened to
    ``least`` pixels a side, and none leaves the image.

    >>> images = torch.zeros(1, 3, 32, 32)
    >>> images[..., 10:20, 8:26:2] = 1
    >>> object_boxes(images).boxes.tolist()
    [[6, 8, 27, 22]]
    """
    count, _, height, width = images.shape
    steps = max(1, round(min(height, width) / STEP))
    mask = _opened(_closed(_binary(_blurred(image_gradient(images), 2 * steps + 1)), 6 * steps + 1), 2 * steps + 1)
    boxes = torch.tensor([0, 0, width, height]).repeat(count, 1)
    found = torch.zeros(count, dtype=torch.bool)
    for i, one in enumerate(mask[:, 0].cpu().numpy()):
        if (box := _largest(one)) is not None:
            boxes[i] = torch.tensor(box)
            found[i] = True
    return Boxes(_widened(boxes, least, width, height).to(images.device), found.to(images.device))


def share_of(boxes: Tensor, height: int, width: int) -> Tensor:
    """The share (N,) in [0, 1] that boxes (N, 4) have of images of ``height`` × ``width``.

    >>> share_of(torch.tensor([[0, 0, 4, 2]]), 4, 4)
    tensor([0.5000])
    """
    return ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).float() / (height * width)


def inside(boxes: Tensor, height: int, width: int) -> Tensor:
    """Which pixels of images of ``height`` × ``width`` are in their box, (N, 1, height, width).

    >>> int(inside(torch.tensor([[0, 0, 4, 2]]), 4, 4).sum())
    8
    """
    along, down = torch.arange(width, device=boxes.device), torch.arange(height, device=boxes.device)
    left, top, right, bottom = (side[:, None] for side in boxes.unbind(1))
    columns, rows = (along >= left) & (along < right), (down >= top) & (down < bottom)
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def image_gradient(images: Tensor) -> Tensor:
    """The Sobel gradient G_x − G_y (N, 1, H, W) of lightness in whole steps of 1/255; the border is repeated.

    >>> image_gradient(torch.ones(1, 3, 4, 4)).abs().max()
    tensor(0.)
    """
    # Of 8-bit pixels one in a thousand has a lightness halfway between two steps, where the last bit of a sum decides;
    # and a convolution may be computed by transforms that leave whole numbers.
    red, green, blue = (weight * images.detach()[:, i : i + 1] for i, weight in enumerate(LIGHTNESS))
    grey = F.pad((255 * ((red + green) + blue)).round(), (1,) * 4, mode="replicate")
    up, middle, down = grey[..., :-2, :], grey[..., 1:-1, :], grey[..., 2:, :]
    ahead = up[..., 1:-1] + up[..., 2:] + middle[..., 2:]
    behind = middle[..., :-2] + down[..., :-2] + down[..., 1:-1]
    return 2 * (ahead - behind)


def _blurred(gradient: Tensor, side: int) -> Tensor:
    """The sum of |G| over windows of ``side``², in float64."""
    return _sums(F.pad(gradient.abs().double(), (side // 2,) * 4, mode="replicate"), side)


def _sums(values: Tensor, side: int) -> Tensor:
    """The sums (N, 1, H − side + 1, W − side + 1) of whole numbers over windows of ``side``², exact."""
    for axis in (2, 3):
        running = F.pad(values.cumsum(axis), (1, 0, 0, 0) if axis == 3 else (0, 0, 1, 0))
        length = running.shape[axis] - side
        values = running.narrow(axis, side, length) - running.narrow(axis, 0, length)
    return values


def _binary(values: Tensor) -> Tensor:
    """Which values (N, 1, H, W) lie above Otsu's threshold (1979) of their image: that which leaves the
    greatest variance between the two parts. None where all are equal."""
    flat = values.flatten(1).sort(1).values
    count = flat.shape[1]
    below = torch.arange(1, count, dtype=torch.float64, device=flat.device)
    sums = flat.cumsum(1)
    total, sums = sums[:, -1:], sums[:, :-1]
    between = (total * below - sums * count).square() / (below * (count - below))
    # Equal values are on one side: between them there is no threshold.
    between = torch.where(flat[:, 1:] > flat[:, :-1], between, -1)
    best, at = between.max(1)
    threshold = torch.where(best > 0, flat.gather(1, at[:, None])[:, 0], torch.inf)
    return values > threshold[:, None, None, None]


def _closed(mask: Tensor, side: int) -> Tensor:
    return _eroded(_dilated(mask, side), side)


def _opened(mask: Tensor, side: int) -> Tensor:
    return _dilated(_eroded(mask, side), side)


def _dilated(mask: Tensor, side: int) -> Tensor:
    """The pixels (N, 1, H, W) that have one of the mask in their window. Beyond the border there is nothing."""
    return _sums(F.pad(mask.double(), (side // 2,) * 4), side) > 0


def _eroded(mask: Tensor, side: int) -> Tensor:
    """The pixels whose window, as far as it is in the image, is of the mask."""
    return ~_dilated(~mask, side)


def _widened(boxes: Tensor, least: int, width: int, height: int) -> Tensor:
    """Boxes of at least ``least`` pixels a side, around the same middle as far as the image allows."""
    low, high, limit = boxes[:, :2], boxes[:, 2:], torch.tensor([width, height])
    side = (high - low).clamp(min=least)
    low = torch.minimum((low + high - side) // 2, limit - side).clamp(min=0)
    return torch.cat([low, torch.minimum(low + side, limit)], 1)


def _largest(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """The box of the largest of the regions (H, W), whose pixels touch at a side or a corner."""
    from scipy import ndimage

    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if not count:
        return None
    of = int(np.bincount(labels.ravel())[1:].argmax()) + 1
    rows, columns = ndimage.find_objects(labels, max_label=of)[of - 1]
    return columns.start, rows.start, columns.stop, rows.stop
