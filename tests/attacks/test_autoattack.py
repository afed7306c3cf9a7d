"""The adapter of pyautoattack; the contract that it shares with the others is tested in test_attacks.py."""

import sys
from importlib.util import find_spec

import pytest
import torch

from raypurify.attacks import AutoAttack
from raypurify.attacks.budget import size
from raypurify.errors import ConfigError, DataError

needs_pyautoattack = pytest.mark.skipif(find_spec("pyautoattack") is None, reason="needs the package pyautoattack")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@needs_pyautoattack
def test_its_result_is_the_packages_own(victim, batch, monkeypatch):
    import pyautoattack

    images, labels = batch[0][:4], batch[1][:4]
    seed = int(torch.randint(2**31, (), generator=generator()))
    published = pyautoattack.AutoAttack(
        victim, norm="L2", eps=0.1, seed=seed, version="custom", attacks=["apgd-ce", "apgd-dlr"]
    )
    published.apgd.n_iter = 10
    expected, _ = published.run_standard_evaluation(images, labels)
    prepare = AutoAttack._prepared

    def shorter(*arguments):
        made = prepare(*arguments)
        made.apgd.n_iter = 10
        return made

    monkeypatch.setattr(AutoAttack, "_prepared", shorter)
    found = AutoAttack(eps=0.1, norm="l2", attacks=("apgd-ce", "apgd-dlr"))(
        victim, images, labels, generator=generator()
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert not torch.equal(found, images)


@needs_pyautoattack
def test_no_more_targets_than_other_classes(toy):
    network, images, labels = toy
    with torch.no_grad():
        labels = network(images).argmax(1)
    attack = AutoAttack(eps=0.05, norm="l2", attacks=("apgd-t", "fab-t"))
    found = attack(network, images[:2], labels[:2], generator=generator())
    assert (size(found - images[:2], images[:2], "l2") <= 0.05 * (1 + 1e-5)).all()


@needs_pyautoattack
def test_targeted_apgd_takes_images_of_any_strides(toy):
    network, images, _ = toy
    with torch.no_grad():
        labels = network(images).argmax(1)
    strided = images.to(memory_format=torch.channels_last)
    expected, found = (
        AutoAttack(eps=0.05, attacks=("apgd-t",))(network, x, labels, generator=generator()) for x in (images, strided)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@needs_pyautoattack
def test_each_image_has_its_own_radius_under_dissimilarity(toy):
    network, images, labels = toy
    with torch.no_grad():
        labels = network(images).argmax(1)
    attack = AutoAttack(eps=0.3, norm="dissimilarity", attacks=("apgd-ce",))
    images = images * torch.linspace(0.2, 1, len(images))[:, None, None, None]
    found = attack(network, images, labels, generator=generator())
    sizes = size(found - images, images, "dissimilarity")
    assert (sizes <= 0.3 * (1 + 1e-5)).all()
    alone = attack(network, images[2:3], labels[2:3], generator=generator())
    torch.testing.assert_close(found[2:3], alone, rtol=0, atol=1e-6)


@needs_pyautoattack
def test_the_random_numbers_of_others_are_left_alone(toy):
    network, images, labels = toy
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    AutoAttack(eps=0.05, attacks=("apgd-ce",))(network, images[:2], labels[:2], generator=generator())
    assert torch.equal(torch.rand(3), expected)


@needs_pyautoattack
def test_fab_reaches_no_parameter(toy):
    network, images, _ = toy
    with torch.no_grad():
        labels = network(images).argmax(1)
    found = AutoAttack(eps=0.5, norm="l2", attacks=("fab",))(network, images[:2], labels[:2])
    assert not torch.equal(found, images[:2])
    assert all(parameter.grad is None for parameter in network.parameters())


@needs_pyautoattack
def test_too_few_classes_for_a_target_are_refused():
    with pytest.raises(DataError, match="3 classes: targeted APGD needs 4"):
        AutoAttack(eps=0.1)(lambda x: x.mean((2, 3)), torch.rand(1, 3, 4, 4), torch.tensor([0]))


def test_settings_are_checked(monkeypatch):
    with pytest.raises(ConfigError, match="version='fast'"):
        AutoAttack(eps=0.1, version="fast")
    with pytest.raises(ConfigError, match="unknown 'pgd'"):
        AutoAttack(eps=0.1, attacks=("pgd",))
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(ConfigError, match=r"pip install 'raypurify\[evaluation\]'"):
        AutoAttack(eps=0.1)
