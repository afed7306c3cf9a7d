"""What a bundle says of itself: the distance threshold and the figures, of the shipped purifier on real images."""

import pytest
import torch

import raypurify
from raypurify.attacks import PGD
from raypurify.training import Batch
from raypurify.training.calibration import measure_attacked, measure_clean


@pytest.fixture(scope="module")
def purifier():
    return raypurify.load("cifar10")


@pytest.fixture(scope="module")
def batches(purifier) -> list[Batch]:
    """Eight images in two batches: labelled as the network sees them, but for one."""
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = purifier.network(images / 255).argmax(1)
    labels[0] = (labels[0] + 1) % 10
    return [Batch(images[part], labels[part]) for part in (slice(0, 5), slice(5, 8))]


def constant(images):
    """A baseline that finds class 0 in every image."""
    return torch.nn.functional.one_hot(torch.zeros(len(images), dtype=torch.long), 10).float()


def test_clean_images_give_the_threshold_and_the_accuracies(purifier, batches):
    told = []
    calibration, figures = measure_clean(purifier, constant, batches, 0.75, told.append)
    images = torch.cat([batch.images for batch in batches]) / 255
    labels = torch.cat([batch.labels for batch in batches])
    index, distance = purifier.distributions.nearest(purifier.latents(images))
    classes = torch.tensor(purifier.bundle.manifest.cluster_class)[index]
    assert calibration.distance_threshold == pytest.approx(float(torch.quantile(distance, 0.75)), rel=1e-5)
    assert (calibration.quantile, calibration.images, told) == (0.75, 8, [5, 3])
    percents = torch.quantile(distance, torch.linspace(0, 1, 101))
    torch.testing.assert_close(torch.tensor(calibration.quantiles), percents, rtol=1e-4, atol=0)
    assert f"{calibration.quantiles[75]:.4f}" == f"{calibration.distance_threshold:.4f}"
    assert figures == {
        "baseline": float((labels == 0).float().mean()),
        "robust": 7 / 8,
        "cluster_class": float((classes == labels).float().mean()),
        "images": 8,
        "distance_mean": pytest.approx(float(distance.mean()), abs=2e-3),
    }


def test_attacked_images_are_measured_before_and_after_purification(purifier, batches):
    told = []
    attack = PGD(eps=16 / 255, norm="linf", steps=3)
    figures = measure_attacked(purifier, purifier.network, batches, attack, told.append)
    assert told == [5, 5, 5, 3, 3, 3]
    assert list(figures) == [
        "baseline_clean",
        "baseline_attacked",
        "baseline_clean_purified",
        "baseline_attacked_purified",
        "robust_attacked",
        "cluster_class_attacked",
        "images",
        "distance_mean",
    ]
    assert figures["baseline_clean"] == 7 / 8
    # The baseline is the robust network here: one attack, one result.
    assert figures["baseline_attacked"] == figures["robust_attacked"] < 7 / 8
    assert figures["images"] == 8
