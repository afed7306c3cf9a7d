"""What is StAdv's own; the contract that it shares with the others is tested in test_attacks.py."""

import pytest
import torch

from raypurify.attacks import StAdv
from raypurify.attacks.stadv import bend, roughness
from raypurify.errors import ConfigError


def test_bending_takes_each_pixel_from_where_the_flow_says():
    images = torch.rand(1, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    flow = torch.zeros(1, 2, 6, 7)
    torch.testing.assert_close(bend(images, flow), images, rtol=0, atol=1e-6)
    flow[0, 0, 2, 3], flow[0, 1, 2, 3] = 0.25, -1.5
    bent = bend(images, flow)
    rows, columns = (2, 3), (1, 2)
    expected = sum(a * b * images[0, :, r, c] for r, a in zip(rows, (0.75, 0.25)) for c, b in zip(columns, (0.5, 0.5)))
    torch.testing.assert_close(bent[0, :, 2, 3], expected)
    bent[0, :, 2, 3] = images[0, :, 2, 3]
    torch.testing.assert_close(bent, images, rtol=0, atol=1e-6)
    flow[0, 1, 0] = -9
    torch.testing.assert_close(bend(images, flow)[0, :, 0], images[0, :, 0, :1].expand(3, 7))


def test_the_flow_stays_within_its_pixels():
    """A ramp of one grey level a pixel tells how far each pixel has come."""
    ramp = torch.arange(16.0).expand(1, 3, 16, 16) / 255
    found = StAdv(eps=0.7, steps=30, smoothness=0.0)(
        lambda x: torch.stack([x.sum((1, 2, 3)), -x.sum((1, 2, 3))], 1),
        ramp,
        torch.tensor([0]),
        loss=lambda logits, labels: logits[:, 0],
    )
    moved = 255 * (found - ramp)[..., 1:-1]
    torch.testing.assert_close(moved, torch.full_like(moved, 0.7), rtol=0, atol=0.01)


def test_a_smoother_flow_is_less_rough(victim, batch):
    images, labels = batch[0][:8], batch[1][:8]
    sizes = []
    for smoothness in (0.0, 0.05, 5.0):
        found = StAdv(eps=0.3, steps=20, smoothness=smoothness)(
            victim, images, labels, loss=lambda logits, labels: -logits.gather(1, labels[:, None])[:, 0]
        )
        sizes.append(float((found - images).square().sum()))
    assert sizes[2] < sizes[0]
    assert torch.equal(roughness(torch.ones(1, 2, 4, 4)), roughness(torch.zeros(1, 2, 4, 4)))


def test_a_larger_flow_fools_more(victim, batch):
    images, labels = batch[0][:24], batch[1][:24]
    with torch.no_grad():
        right = [
            (victim(StAdv(eps=eps, steps=30)(victim, images, labels)).argmax(1) == labels).sum()
            for eps in (0.05, 0.3, 1.0)
        ]
    assert right[0] > right[1] >= right[2]
    assert right[2] <= 2


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="norm='linf': StAdv moves pixels"):
        StAdv(eps=0.1, norm="linf")
    with pytest.raises(ConfigError, match="smoothness=-1"):
        StAdv(eps=0.1, smoothness=-1)
