"""Success of an attack is told by what is deployed, of images as files hold them."""

import pytest
import torch

from raypurify.attacks import ATTACKS
from raypurify.attacks.success import fooled

GREY = 128 / 255


def band(x):
    """A classifier whose second class is a band of mean values, 2.6 to 6.2 grey levels above the middle."""
    rise = 255 * (x - GREY).mean((1, 2, 3))
    inside = 1.8 - (rise - 4.4).abs()
    return torch.stack([0 * inside, inside], 1)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("deepfool", {"steps": 9}), ("cw", {"searches": 3, "steps": 60, "initial_const": 1.0, "step_size": 0.02})],
)
def test_a_success_that_is_lost_further_on_is_kept(name, settings):
    images, labels = torch.full((2, 3, 8, 8), GREY), torch.tensor([0, 0])
    images[1] += 30 / 255
    for eps, kept in ((0.5, True), (0.24, False)):
        # 9.2 and 4.4 grey levels of every value.
        found = ATTACKS[name](eps=eps, norm="l2", fill=True, **settings)(band, images, labels)
        lengths = (found - images).flatten(1).norm(dim=1)
        assert fooled(band, found, labels, found.dtype).tolist() == [True, False]
        assert lengths[0] < 0.3 if kept else abs(lengths[0] - eps) < 1e-3
        # The second image is out of reach, and is lengthened as ever.
        assert abs(lengths[1] - eps) < 1e-3
