"""What is APGD's own; the contract that it shares with the others is tested in test_attacks.py."""

from importlib.util import find_spec

import pytest
import torch

from raypurify.attacks import APGD, PGD
from raypurify.attacks.losses import dlr
from raypurify.attacks.success import fooled
from raypurify.errors import ConfigError, DataError

needs_pyautoattack = pytest.mark.skipif(find_spec("pyautoattack") is None, reason="needs the package pyautoattack")
EPS = {"Linf": 1 / 255, "L2": 0.1}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_checkpoints_are_the_papers():
    # Section 3: p = 0, 0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99 of 100 steps.
    assert APGD(eps=0.1).checkpoints() == [0, 22, 41, 57, 70, 80, 87, 93, 99]
    assert APGD(eps=0.1, steps=20).checkpoints() == [0, 5, 9, 12, 14, 16, 18, 19, 20]


@needs_pyautoattack
@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_it_is_the_authors_own_step_by_step(loss, norm):
    """From the same start, with nobody leaving: the best loss of every image, of 100 steps as theirs are made for."""
    from pyautoattack.autopgd_base import APGDAttack

    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3), torch.nn.Tanh(), torch.nn.Conv2d(16, 16, 3), torch.nn.Tanh(), torch.nn.Flatten()
    )
    network = torch.nn.Sequential(network, torch.nn.LazyLinear(5))
    images, labels = torch.rand(12, 3, 8, 8, dtype=torch.double), torch.arange(12) % 5
    network.double()(images)
    eps = 10 * EPS[norm]
    theirs = APGDAttack(network, n_iter=100, norm=norm, eps=eps, loss=loss, device="cpu")
    theirs.init_hyperparam(images)
    expected = theirs.attack_single_run(images, labels, x_init=images)[2]
    attack = APGD(eps=eps, norm=norm.lower(), loss=loss)
    each = theirs.dlr_loss if loss == "dlr" else torch.nn.CrossEntropyLoss(reduction="none")
    found = attack._climb(network, images, torch.zeros_like(images), labels, images.dtype, each, leave=False)
    with torch.no_grad():
        assert (expected > each(network(images), labels)).all()
        same = torch.isclose(each(network(found), labels), expected, rtol=1e-4, atol=1e-4)
    # Where two logits meet, dlr divides by nearly nothing, and rounding decides the path.
    assert same.double().mean() > (0.8 if loss == "dlr" else 0.99)


@needs_pyautoattack
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_no_weaker_than_the_authors_own(loss, victim, batch):
    from pyautoattack.autopgd_base import APGDAttack

    images, labels, eps, steps = batch[0][:40], batch[1][:40], 1.5 / 255, 15
    theirs = APGDAttack(victim, n_iter=steps, norm="Linf", eps=eps, loss=loss, device="cpu").perturb(images, labels)
    ours = APGD(eps=eps, loss=loss, steps=steps)(victim, images, labels, generator=generator())
    # Theirs are judged as they are, ours as they were and as files.
    counts = [int((victim(x).argmax(1) != labels).sum()) for x in (ours, theirs)]
    assert counts[0] >= counts[1] - 1
    assert len(labels) / 4 < counts[1] < len(labels)


def test_stronger_than_pgd_of_as_many_steps(victim, batch):
    images, labels = batch[0][:40], batch[1][:40]
    settings = {"eps": 1.5 / 255, "steps": 15}
    apgd, pgd = (
        fooled(victim, attack(victim, images, labels, generator=generator()), labels, images.dtype).sum()
        for attack in (APGD(**settings), PGD(**settings))
    )
    assert apgd >= pgd


def test_who_is_fooled_as_a_file_leaves_the_batch(victim, batch):
    images, labels, asked = batch[0][:24], batch[1][:24], []

    def watched(x):
        if x.requires_grad:
            asked.append(len(x))
        return victim(x)

    found = APGD(eps=2 / 255, steps=20)(watched, images, labels, generator=generator())
    assert asked == sorted(asked, reverse=True)
    assert sum(asked) < 12 * len(images)
    assert fooled(victim, found, labels, found.dtype).float().mean() > 0.9


@pytest.mark.parametrize(("eps", "passes"), [(0.4 / 255, 11), (1 / 255, 2)])
def test_a_success_that_rounding_undoes_is_none(eps, passes):
    grey, asked = 128 / 255, []

    def network(x):
        asked.append(x.requires_grad)
        rise = (x - grey).sum((1, 2, 3))
        return torch.stack([-rise, rise - 0.01], 1)

    APGD(eps=eps, steps=10)(network, torch.full((1, 3, 8, 8), grey), torch.tensor([0]), generator=generator())
    assert sum(asked) == passes


def test_the_loss_dlr_is_that_of_the_paper():
    logits = torch.tensor([[5.0, 1.0, 3.0, 2.0], [1.0, 5.0, 3.0, 2.0]])
    # −(Z_y − max other) / (Z_π1 − Z_π3): −(5 − 3) / (5 − 2), −(1 − 5) / (5 − 2).
    torch.testing.assert_close(dlr(logits, torch.tensor([0, 0])), torch.tensor([-2 / 3, 4 / 3]))
    torch.testing.assert_close(dlr(7 * logits + 3, torch.tensor([0, 0])), dlr(logits, torch.tensor([0, 0])))
    with pytest.raises(DataError, match="2 classes: the loss dlr compares three"):
        dlr(logits[:, :2], torch.tensor([0, 0]))


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="rho=2"):
        APGD(eps=0.1, rho=2)
    with pytest.raises(ConfigError, match="loss='cw'"):
        APGD(eps=0.1, loss="cw")
