"""What is LowFrequency's own; the contract that it shares with the others is tested in test_attacks.py."""

import numpy as np
import pytest
import torch
from scipy.fft import dctn

from raypurify.attacks import PGD, LowFrequency
from raypurify.attacks.budget import NORMS, size
from raypurify.attacks.losses import margin
from raypurify.attacks.low_frequency import dct_band
from raypurify.errors import ConfigError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_projection_is_that_of_the_dct():
    images = torch.randn(2, 3, 12, 10, generator=generator()).double()
    spectrum = dctn(images.numpy(), axes=(2, 3), norm="ortho")
    kept = dctn(dct_band(images, 0.25).numpy(), axes=(2, 3), norm="ortho")
    np.testing.assert_allclose(kept[..., :3, :3], spectrum[..., :3, :3], atol=1e-12)
    kept[..., :3, :3] = 0
    np.testing.assert_allclose(kept, 0, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_the_perturbation_has_no_other_frequencies_and_fills_its_ball(norm, victim, batch):
    images, labels = 0.3 + 0.4 * batch[0][:8], batch[1][:8]
    eps = {"linf": 8 / 255, "l2": 1.0, "dissimilarity": 0.04}[norm]
    found = LowFrequency(eps=eps, norm=norm, steps=20)(victim, images, labels, generator=generator())
    delta = found - images
    torch.testing.assert_close(dct_band(delta, 0.25), delta, rtol=0, atol=1e-5)
    assert (size(delta, images, norm) > 0.95 * eps).all()
    assert (size(delta, images, norm) <= eps * (1 + 1e-5)).all()


def test_a_wider_band_is_stronger(victim, batch):
    images, labels = batch[0][:24], batch[1][:24]
    margins = []
    for band in (0.1, 0.25, 1.0):
        found = LowFrequency(eps=4 / 255, band=band, steps=15)(victim, images, labels, generator=generator())
        with torch.no_grad():
            margins.append(float(margin(victim(found), labels).mean()))
    found = PGD(eps=4 / 255, steps=15)(victim, images, labels, generator=generator())
    with torch.no_grad():
        margins.append(float(margin(victim(found), labels).mean()))
    assert margins == sorted(margins)


def test_restarts_keep_the_best_by_the_loss_that_is_named(victim, batch):
    images, labels = batch[0][:16], batch[1][:16]
    margins = []
    for settings in ({}, {"restarts": 3}):
        attack = LowFrequency(eps=2.5 / 255, steps=4, loss="margin", **settings)
        found = attack(victim, images, labels, generator=generator())
        assert (size(found - images, images, "linf") <= attack.eps * (1 + 1e-5)).all()
        with torch.no_grad():
            margins.append(margin(victim(found), labels))
    withstood = margins[1] < -0.01
    assert (margins[1] >= margins[0] - 1e-4)[withstood].all()
    assert (margins[1] > margins[0] + 1e-3).any()
    other = LowFrequency(eps=2.5 / 255, steps=4)(victim, images, labels, generator=generator())
    with torch.no_grad():
        assert not torch.equal(margin(victim(other), labels), margins[0])


def test_settings_are_checked():
    for band in (0, 1.5):
        with pytest.raises(ConfigError, match="band="):
            LowFrequency(eps=0.1, band=band)
    with pytest.raises(ConfigError, match="restarts=2 are all the same"):
        LowFrequency(eps=0.1, restarts=2, random_start=False)
    with pytest.raises(ConfigError, match="loss='mse'"):
        LowFrequency(eps=0.1, loss="mse")
