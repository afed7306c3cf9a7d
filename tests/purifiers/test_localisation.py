"""The object region on images whose object is known."""

import numpy as np
import pytest
import torch

from raypurify.purifiers.localisation import LIGHTNESS, image_gradient, inside, object_boxes, share_of


def scene(left, top, right, bottom, height=96, width=128, noise=0.0):
    """A striped object on a plain ground."""
    generator = torch.Generator().manual_seed(0)
    image = torch.full((3, height, width), 0.4)
    image[:, top:bottom, left:right] = 0.4 + 0.4 * ((torch.arange(left, right) // 2) % 2)
    return (image + noise * torch.randn(image.shape, generator=generator)).clamp(0, 1)


@pytest.mark.parametrize("noise", [0.0, 0.02])
@pytest.mark.parametrize("box", [(30, 20, 90, 70), (0, 0, 40, 50), (100, 60, 128, 96)])
def test_the_box_is_that_of_the_object(box, noise):
    found = object_boxes(scene(*box, noise=noise)[None])
    assert found.found.all()
    assert (found.boxes[0] - torch.tensor(box)).abs().max() <= 6


def test_the_largest_of_two_objects_is_taken():
    image = torch.maximum(scene(8, 8, 28, 24), scene(50, 24, 106, 80))
    assert (object_boxes(image[None]).boxes[0] - torch.tensor([50, 24, 106, 80])).abs().max() <= 6


def test_where_nothing_is_found_the_box_is_the_whole_image():
    # One colour, and less than a step of eight bits.
    faint = 0.5 + 0.001 * torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(0))
    found = object_boxes(torch.stack([torch.zeros(3, 20, 30), torch.ones(3, 20, 30), faint]))
    assert not found.found.any()
    assert found.boxes.tolist() == [[0, 0, 30, 20]] * 3
    assert share_of(found.boxes, 20, 30).tolist() == [1.0] * 3


def test_the_gradient_is_sobels_across_less_sobels_down():
    from skimage.filters import sobel_h, sobel_v

    image = torch.rand(3, 16, 19, generator=torch.Generator().manual_seed(0))
    grey = np.round(255 * (image * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0).numpy())
    ours = image_gradient(image[None])[0, 0].numpy()
    # Theirs are a fourth.
    np.testing.assert_allclose(ours[1:-1, 1:-1], (4 * (sobel_v(grey) - sobel_h(grey)))[1:-1, 1:-1], atol=1e-3)


@pytest.mark.parametrize("pixels", ["whole", "any"])
def test_the_gradient_is_the_same_to_the_bit_in_any_batch_layout_and_order_of_sums(pixels):
    """Of every operation of IEEE 754 one by one, at lightnesses halfway between two steps, too."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(6, 3, 30, 41, generator=generator)
    if pixels == "whole":
        images = (255 * images).round() / 255
        # 0.299 r + 0.587 g + 0.114 b is a whole number and a half.
        r, g, b = np.array([(r, g, b) for r in range(40) for g in range(40) for b in range(40)]).T
        halves = np.flatnonzero((299 * r + 587 * g + 114 * b) % 1000 == 500)[:41]
        images[:, :, 7, : len(halves)] = torch.from_numpy(np.stack([r, g, b])[:, halves] / 255).float()
        assert len(halves) > 20
    x = images.numpy()
    with_weights = [np.float32(weight) * x[:, i] for i, weight in enumerate(LIGHTNESS)]
    grey = np.rint(np.float32(255) * ((with_weights[0] + with_weights[1]) + with_weights[2]))
    grey = np.pad(grey, ((0, 0), (1, 1), (1, 1)), "edge").astype(np.int64)
    kernel = np.array([[0, 2, 2], [-2, 0, 2], [-2, -2, 0]])
    expected = sum(kernel[i, j] * grey[:, i : i + 30, j : j + 41] for i in range(3) for j in range(3))
    layouts = (
        images,
        images.contiguous(memory_format=torch.channels_last),
        images.transpose(2, 3).clone().transpose(2, 3),
    )
    for given in (*layouts, torch.cat([images, images])[:6]):
        assert np.array_equal(image_gradient(given)[:, 0].numpy(), expected)
    for i in range(6):
        assert np.array_equal(image_gradient(images[i : i + 1])[0, 0].numpy(), expected[i])


@pytest.mark.parametrize("least", [8, 17])
def test_a_box_has_at_least_so_many_pixels_and_stays_in_the_image(least):
    images = torch.zeros(3, 3, 20, 24)
    images[0, :, 9:11, 12] = 1
    images[1, :, 19, 23] = 1
    images[2, :, 0, 0] = 1
    boxes = object_boxes(images, least).boxes
    assert (boxes[:, 2:] - boxes[:, :2] >= least).all()
    assert (boxes >= 0).all()
    assert (boxes[:, 2] <= 24).all()
    assert (boxes[:, 3] <= 20).all()


def test_a_box_does_not_depend_on_the_batch():
    images = torch.stack([scene(30, 20, 90, 70, noise=0.05), scene(0, 0, 40, 50, noise=0.1), torch.zeros(3, 96, 128)])
    together = object_boxes(images).boxes
    assert torch.equal(together, torch.cat([object_boxes(images[k : k + 1]).boxes for k in range(3)]))
    within = inside(together, 96, 128)
    assert torch.equal(within.sum((1, 2, 3)), ((share_of(together, 96, 128) * 96 * 128).round().long()))
