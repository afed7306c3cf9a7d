"""What the study of the pull pairs and measures."""

from argparse import ArgumentTypeError
from functools import partial

import numpy as np
import pytest
import torch

from raypurify.clusters.files import load_clusters
from raypurify.config import load_settings
from raypurify.nets import WideResNet
from raypurify.training.data import ImageSet
from raypurify.training.start import drawn_network


def test_a_folder_of_the_pull_is_of_one_study(benchmark, tmp_path):
    bench = benchmark("pull")
    settings = load_settings(preset="tiny")
    for _ in range(2):
        bench.claim(tmp_path, settings, 300)
    for changed, images in ((settings, 200), (load_settings(preset="tiny", overrides=("robust.epochs=1",)), 300)):
        with pytest.raises(SystemExit, match="other settings or images: give another --out"):
            bench.claim(tmp_path, changed, images)
    (tmp_path / "old" / "seed-0").mkdir(parents=True)
    with pytest.raises(SystemExit, match="give another --out"):
        bench.claim(tmp_path / "old", settings, 300)


def test_what_the_pull_adds_is_the_mean_of_differences_of_the_same_seed(benchmark):
    bench = benchmark("pull_table")
    measured = {0: (0.2, 0.5, 0.3), 0.05: (0.3, 0.5, 0.7)}
    runs = [
        {"start": "ce", "alpha": alpha, "seed": seed, **dict.fromkeys(bench.MEASURES, value)}
        for alpha, values in measured.items()
        for seed, value in enumerate(values)
    ]
    # A seed without its α = 0 counts for nothing.
    runs.append({"start": "ce", "alpha": 0.05, "seed": 3, **dict.fromkeys(bench.MEASURES, 1.0)})
    head, _, *rows = bench.table({"runs": runs}).splitlines()
    assert "from PGD-AT, 3 seeds" in head
    # Differences 10, 0 and 40: their standard deviation is 20.8, and t of two degrees is 4.30.
    assert "| accuracy of the robust network, clean | 33.3 | +16.7 (-35.0 to +68.4) |" in rows
    assert "| distance of a clean image to its cluster | 0.33 | +0.17 (-0.35 to +0.68) |" in rows


def test_other_losses_are_paired_with_none_and_with_the_pull(benchmark):
    bench = benchmark("pull_table")
    arms = {("mahalanobis", 0): 0.2, ("mahalanobis", 0.01): 0.25, ("mahalanobis", 0.05): 0.3, ("pcl", 0.01): 0.7}
    runs = [
        {"start": "ce", "semantic": semantic, "alpha": alpha, "seed": 0, **dict.fromkeys(bench.MEASURES, value)}
        for (semantic, alpha), value in arms.items()
    ]
    to_none, to_pull = bench.table({"runs": runs, "settings": {"robust": {"alpha": 0.05}}}).split("\n\n")
    assert "| α = 0 | α = 0.01, minus α = 0 | α = 0.05, minus α = 0 | pcl, α = 0.01, minus α = 0 |" in to_none
    assert "| accuracy of ResNet-20, purified, attacked gray-box | 20.0 | +5.0 | +10.0 | +50.0 |" in to_none
    assert "| α = 0.05 | pcl, α = 0.01, minus α = 0.05 |" in to_pull
    assert "| nearest cluster of the right class in its own latents, clean | 30.0 | +40.0 |" in to_pull
    assert [bench.Arm(*arm).folder for arm in arms] == ["0", "0.01", "0.05", "pcl-0.01"]


@pytest.mark.parametrize("text", ["pcl", "pcl=0", "pcl=inf", "mahalanobis=0.1", "pcl=a"])
def test_a_loss_that_is_none_is_refused(benchmark, text):
    with pytest.raises(ArgumentTypeError, match="give one of pcl, center, contrastive, triplet and its α > 0"):
        benchmark("pull").arm_of(text)


def test_clusters_are_found_again_in_the_latents_of_another_network(benchmark, tmp_path):
    """The same images in the same clusters, where a network that was never pulled has them."""
    bench, settings = benchmark("pull"), load_settings(preset="tiny")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 3, 8, 8), np.uint8)
    images = ImageSet(5 + np.arange(60), np.arange(60) % 10, pixels)
    first, second = (drawn_network(partial(WideResNet, 10, 1, 10), seed).eval() for seed in (0, 1))
    own, _ = bench.write_all_clusters(tmp_path, images, bench.latents_of(first, images), 70, settings)
    before = load_clusters(tmp_path)[0]
    moved, latents = bench.in_its_latents(second, images, tmp_path, settings), bench.latents_of(second, images)
    assert moved.clusters == before.clusters
    means = np.stack([latents[own == k].mean(0) for k in range(moved.clusters)])
    torch.testing.assert_close(moved.means, torch.from_numpy(means), rtol=1e-4, atol=1e-5)
    right = [(found.distance(torch.from_numpy(latents)).argmin(1).numpy() == own).mean() for found in (before, moved)]
    assert right[0] < right[1]
