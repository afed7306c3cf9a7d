"""Success of an attack is told by what is deployed, of images as files hold them."""

import pytest
import torch

from raypurify.attacks import ATTACKS
from raypurify.attacks.success import confirmed, fooled

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


def risen(x):
    """A classifier of four classes, the second of which takes over 0.3 grey levels above the middle."""
    rise = 255 * (x - GREY).mean((1, 2, 3))
    return torch.stack([-rise, rise - 0.6, 0 * rise - 3, 0 * rise - 3], 1)


def apart(network, shift):
    """A model whose second class has a logit higher by ``shift`` where it is differentiated than where it is deployed,
    and the list of how many images it was asked about, and whether to be differentiated."""
    asked = []

    def model(x):
        asked.append((len(x), x.requires_grad))
        logits = network(x)
        return logits + logits.new_tensor([0, shift * x.requires_grad, 0, 0])

    return model, asked


@pytest.mark.parametrize(
    ("name", "shift", "settings"),
    [
        ("deepfool", 1.6, {"eps": 1.0, "steps": 20}),
        ("cw", 1.6, {"eps": 1.0, "searches": 6, "steps": 40, "step_size": 0.005}),
        # FAB stops at the border that it sees, and the parts after it go on.
        ("autoattack", 0.4, {"eps": 3 / 255, "norm": "linf", "attacks": ("fab", "apgd-ce")}),
    ],
)
def test_a_success_of_the_gradients_pass_alone_is_none(name, shift, settings):
    if name == "autoattack":
        pytest.importorskip("pyautoattack")
    images, labels = torch.full((2, 3, 8, 8), GREY), torch.tensor([0, 0])
    model, _ = apart(risen, shift)
    found = ATTACKS[name](**settings)(model, images, labels, generator=torch.Generator().manual_seed(0))
    assert fooled(model, found, labels, found.dtype).all()


def test_a_success_that_the_gradients_pass_just_misses_is_one():
    labels = torch.tensor([0, 0])
    images = torch.full((2, 3, 8, 8), GREY)
    model, asked = apart(lambda x: risen(x) + torch.tensor([0, 0.65, 0, 0]), -0.1)
    logits = model(images.requires_grad_()).detach()
    assert (logits.argmax(1) == labels).all()
    images = images.detach()
    assert confirmed(model, images, logits, labels, images.dtype).all()
    # APGD is done at once.
    asked.clear()
    ATTACKS["apgd"](eps=0.01 / 255, steps=9)(model, images, labels, generator=torch.Generator().manual_seed(0))
    assert sum(differentiated for _, differentiated in asked) == 1
    # Who is far from a success is not asked about.
    asked.clear()
    logits[1, 0] += 1
    assert confirmed(model, images, logits, labels, images.dtype).tolist() == [True, False]
    assert asked[0] == (1, False)


def test_square_goes_on_where_rounding_undoes_its_success():
    images, labels = torch.full((1, 3, 8, 8), GREY), torch.tensor([0])
    for eps, done in ((0.4 / 255, False), (1 / 255, True)):
        model, asked = apart(lambda x: risen(x) + torch.tensor([0, 0.5, 0, 0]), 0)
        square = ATTACKS["square"](eps=eps, queries=60)
        found = square(model, images, labels, generator=torch.Generator().manual_seed(0))
        assert (risen(found)[0, 1] + 0.5 > risen(found)[0, 0]).all()
        assert fooled(model, found, labels, found.dtype).item() == done
        assert (len(asked) > 60) == (not done)
