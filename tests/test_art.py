"""A purifier as a preprocessor of the Adversarial Robustness Toolbox, in its estimators and under its attacks."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import raypurify
import raypurify.art
from raypurify.art import PurifierPreprocessor
from raypurify.attacks import PGD
from raypurify.errors import ConfigError
from raypurify.modules import PurifierModule
from raypurify.purifiers.transform import Transform

needs_art = pytest.mark.skipif(raypurify.art.PreprocessorPyTorch is None, reason="needs adversarial-robustness-toolbox")
EPS, STEP, STEPS = 2 / 255, 0.7 / 255, 3


@pytest.fixture(scope="module")
def purifier():
    return raypurify.load("cifar10")


@pytest.fixture(scope="module")
def images(photographs):
    return photographs.numpy()


@pytest.fixture(scope="module")
def defended(purifier):
    """Makes the toolbox's classifier behind a preprocessor."""
    from art.estimators.classification import PyTorchClassifier

    def make(preprocessor, **options):
        return PyTorchClassifier(
            purifier.network, loss=nn.CrossEntropyLoss(), input_shape=(3, 32, 32), nb_classes=10, clip_values=(0, 1),
            preprocessing_defences=preprocessor, device_type="cpu", **options,
        )  # fmt: skip

    return make


@dataclass(frozen=True)
class Brighter(Transform):
    """Adds six tenths of a level of 255."""

    def transform(self, images):
        return images + 0.6 / 255


def test_without_the_toolbox_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(raypurify.art, "PreprocessorPyTorch", None)
    with pytest.raises(ConfigError, match=r"pip install 'raypurify\[art\]'"):
        PurifierPreprocessor()


@needs_art
@pytest.mark.parametrize(
    ("channels_first", "clip_values"), [(True, (0.0, 1.0)), (False, (0.0, 255.0)), (True, (-1, 1))]
)
def test_it_takes_and_gives_the_range_and_layout_of_the_estimator(purifier, images, channels_first, clip_values):
    low, high = clip_values
    defence = PurifierPreprocessor(purifier, channels_first=channels_first, clip_values=clip_values, device_type="cpu")
    axes = (0, 1, 2, 3) if channels_first else (0, 2, 3, 1)
    given = (low + (high - low) * images).transpose(axes)
    done, labels = defence(given, np.array([1, 2, 3]))
    expected = (low + (high - low) * purifier.purify(torch.from_numpy(images)).images.numpy()).transpose(axes)
    np.testing.assert_allclose(done, expected, atol=1e-3 * (high - low))
    assert done.dtype == given.dtype
    assert labels.tolist() == [1, 2, 3]
    gradient = np.random.default_rng(0).normal(size=given.shape).astype(np.float32)
    beyond = given + np.float32(1e-5)
    np.testing.assert_allclose(defence.estimate_gradient(beyond, gradient), gradient, rtol=1e-5, atol=1e-6)
    assert (defence.is_fitted, defence.apply_fit, defence.apply_predict) == (True, False, True)


@needs_art
@pytest.mark.parametrize(("dtype", "clip_values"), [(np.uint8, (0, 255)), (np.int8, (-128, 127)), (np.int64, (0, 255))])
def test_whole_numbers_are_rounded_not_cut(dtype, clip_values):
    defence = PurifierPreprocessor(Brighter(), channels_first=False, clip_values=clip_values, device_type="cpu")
    levels = np.arange(256).reshape(1, 16, 16, 1).repeat(3, 3)
    done, _ = defence((levels + clip_values[0]).astype(dtype))
    assert done.dtype == dtype
    assert (done.astype(int) - clip_values[0]).tolist() == np.minimum(levels + 1, 255).tolist()


@needs_art
def test_an_impossible_range_is_refused(purifier):
    with pytest.raises(ConfigError, match="clip_values"):
        PurifierPreprocessor(purifier, clip_values=(1.0, 0.0))
    with pytest.raises(ConfigError, match="clip_values"):
        PurifierPreprocessor(purifier).set_params(clip_values=(1.0, 1.0))


@needs_art
def test_its_gradient_through_the_solver_is_the_modules(purifier, images):
    defence = PurifierPreprocessor(purifier, "implicit", device_type="cpu")
    gradient = np.random.default_rng(0).normal(size=images[:1].shape).astype(np.float32)
    x = torch.from_numpy(images[:1]).requires_grad_()
    (expected,) = torch.autograd.grad(PurifierModule(purifier, "implicit")(x), x, torch.from_numpy(gradient))
    np.testing.assert_allclose(defence.estimate_gradient(images[:1], gradient), expected, rtol=1e-3, atol=1e-3)


@needs_art
def test_attacks_of_the_toolbox_see_what_ours_see(purifier, images, defended):
    """The loss and its gradient are those of the torch module, and so PGD finds what ours finds."""
    from art.attacks.evasion import ProjectedGradientDescent

    classifier = defended(PurifierPreprocessor(purifier, device_type="cpu"))
    whole = nn.Sequential(PurifierModule(purifier), purifier.network)
    images = images[:2]
    x = torch.from_numpy(images).requires_grad_()
    logits = whole(x)
    labels = logits.argmax(1)
    np.testing.assert_allclose(classifier.predict(images), logits.detach().numpy(), atol=1e-4)
    (gradient,) = torch.autograd.grad(cross_entropy(logits, labels), x)
    np.testing.assert_allclose(classifier.loss_gradient(images, np.eye(10)[labels]), gradient, rtol=1e-3, atol=1e-6)

    def loss(found):
        with torch.no_grad():
            return float(cross_entropy(whole(torch.as_tensor(found)), labels))

    settings = {"norm": np.inf, "eps": EPS, "eps_step": STEP, "max_iter": STEPS, "verbose": False}
    ours = PGD(eps=EPS, step_size=STEP, steps=STEPS, random_start=False)(whole, x.detach(), labels)
    theirs = ProjectedGradientDescent(classifier, **settings).generate(images, labels.numpy())
    assert (np.abs(theirs - ours.numpy()) < 1e-6).mean() > 0.98
    drawn = ProjectedGradientDescent(classifier, num_random_init=1, **settings).generate(images, labels.numpy())
    assert loss(images) < 0.95 * loss(ours)
    assert loss(drawn) == pytest.approx(loss(ours), rel=0.05)


@needs_art
def test_it_chains_with_the_toolboxs_own_preprocessors(purifier, images, defended):
    from art.preprocessing.standardisation_mean_std.pytorch import StandardisationMeanStdPyTorch

    defence = PurifierPreprocessor(purifier, device_type="cpu")
    classifier = defended(defence, preprocessing=StandardisationMeanStdPyTorch(mean=0.25, std=0.5, device_type="cpu"))
    assert classifier.all_framework_preprocessing
    with torch.no_grad():
        expected = purifier.network((purifier.purify(torch.from_numpy(images)).images - 0.25) / 0.5)
    np.testing.assert_allclose(classifier.predict(images), expected, atol=1e-4)
