"""The purifier: each step against its definition, and what must not change its result."""

import numpy as np
import pytest
import torch

import raypurify
from raypurify.csc import solve_cbpdn, tikhonov_split
from raypurify.errors import ConfigError, DataError
from raypurify.images import decode_image, to_float
from raypurify.purifiers.rewriting import rewrite

EXAMPLES = "examples/cifar10"


@pytest.fixture(scope="module")
def purifier():
    return raypurify.load("cifar10")


@pytest.fixture(scope="module")
def images(request):
    """Twelve of the example photographs, clean and attacked."""
    paths = sorted((request.config.rootpath / EXAMPLES).glob("*/*.png"))[::4]
    return torch.stack([torch.from_numpy(to_float(decode_image(path.read_bytes()).pixels)) for path in paths])


@pytest.fixture(scope="module")
def out(purifier, images):
    return purifier.purify(images)


def test_result_is_what_the_nearest_clusters_dictionary_makes_of_it(purifier, images, out):
    csc = purifier.settings.csc
    distances = purifier.distributions.distance(purifier.network.latents(images))
    assert torch.equal(out.cluster, distances.argmin(1))
    torch.testing.assert_close(out.distance, distances.amin(1), rtol=1e-4, atol=1e-4)
    for i in range(3):
        own = purifier.dictionaries[out.cluster[i]]
        expected, _ = rewrite(images[i : i + 1], own, csc)
        torch.testing.assert_close(out.images[i : i + 1], expected, atol=1e-5, rtol=0)


def test_result_is_finite_and_in_range(images, out):
    assert out.images.shape == images.shape
    assert torch.isfinite(out.images).all()
    assert out.images.amin() >= 0
    assert out.images.amax() <= 1
    assert (out.iterations > 0).all()
    assert ((out.relative_change > 0) & (out.relative_change < 0.5)).all()


def test_purify_is_deterministic(purifier, images, out):
    assert torch.equal(purifier.purify(images).images, out.images)


def test_batch_order_and_size_change_nothing(purifier, images, out):
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    shuffled = purifier.purify(images[order])
    alone = [purifier.purify(images[i : i + 1]) for i in range(len(images))]
    inverse = order.argsort()
    torch.testing.assert_close(shuffled.images[inverse], out.images, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cat([one.images for one in alone]), out.images, atol=1e-5, rtol=0)
    assert torch.equal(shuffled.cluster[inverse], out.cluster)


def test_larger_lambda_never_codes_more(purifier, images):
    _, high = tikhonov_split(images)
    counts = [
        int((solve_cbpdn(purifier.dictionaries[0], high, lmbda=lmbda, rel_tol=1e-3).codes != 0).sum())
        for lmbda in (0.05, 0.1, 0.2, 0.4)
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


def test_any_size_from_an_atom_up_keeps_its_size(purifier):
    for size in ((8, 8), (9, 31), (33, 64)):
        images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
        assert purifier.purify(images).images.shape == (2, 3, *size)


def test_flat_images_come_back_as_they_are(purifier):
    flat = torch.tensor([0.0, 0.5, 1.0])[:, None, None, None].expand(3, 3, 32, 32)
    out = purifier.purify(flat)
    torch.testing.assert_close(out.images, flat.clone(), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.relative_change, torch.zeros(3), atol=1e-5, rtol=0)


def test_float64_and_no_images_are_fine(purifier, images, out):
    torch.testing.assert_close(purifier.purify(images.double()).images, out.images, atol=1e-5, rtol=0)
    empty = purifier.purify(images[:0])
    assert empty.images.shape == (0, 3, 32, 32)
    assert len(empty.cluster) == len(empty.flagged) == 0


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(3, 32, 32), "(N, 3, H, W)"),
        (torch.zeros(1, 1, 32, 32), "(N, 3, H, W)"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "floating-point"),
        (torch.zeros(1, 3, 7, 32), "smaller than an atom"),
        (torch.full((1, 3, 32, 32), 255.0), "in [0, 1]"),
        (torch.full((1, 3, 32, 32), float("nan")), "finite"),
        (torch.full((1, 3, 32, 32), float("inf")), "finite"),
    ],
)
def test_bad_tensors_are_named(purifier, bad, message):
    with pytest.raises(DataError) as error:
        purifier.purify(bad)
    assert message in str(error.value)


def test_an_input_beyond_the_calibrated_distance_is_flagged(purifier, images):
    threshold = purifier.bundle.manifest.calibration.distance_threshold
    noise = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    out = purifier.purify(torch.cat([images, noise]))
    assert torch.equal(out.flagged, out.distance > threshold)


def test_images_larger_than_the_networks_input_are_purified_at_their_own_size(data_file):
    """Imagenette at 224² through the bundle whose network sees 64²."""
    import pyarrow.parquet as pq

    rows = pq.read_table(data_file("imagenette224/val.parquet"), columns=["image", "label"])[:20]
    images = torch.from_numpy(np.stack([to_float(decode_image(data).pixels) for data in rows["image"].to_pylist()]))
    wide = raypurify.load("imagenet10")
    done = wide.purify(images)
    assert done.images.shape == images.shape
    assert 0 < done.relative_change.max() < 0.3
    with torch.no_grad():
        small = torch.nn.functional.interpolate(images, (64, 64), mode="bilinear", antialias=True)
        hits = (wide.network(small).argmax(1) == torch.from_numpy(rows["label"].to_numpy().copy())).sum()
    # 71.5 % on validation images.
    assert hits >= 10


def test_a_given_cluster_is_the_one_that_rewrites_the_image(purifier, images, out):
    again = purifier.purify(images, cluster=out.cluster)
    torch.testing.assert_close(again.images, out.images, atol=1e-5, rtol=0)
    torch.testing.assert_close(again.distance, out.distance, rtol=1e-4, atol=1e-4)
    assert (out.cluster_given, again.cluster_given) == (False, True)
    distances = purifier.distributions.distance(purifier.latents(images))
    farthest = distances.argmax(1)
    other = purifier.purify(images, cluster=farthest.tolist())
    torch.testing.assert_close(other.distance, distances.amax(1), rtol=1e-4, atol=1e-4)
    assert torch.equal(other.flagged, other.distance > purifier.bundle.manifest.calibration.distance_threshold)
    one = purifier.purify(images[:2], cluster=int(farthest[0]))
    assert one.cluster.tolist() == [farthest[0]] * 2
    torch.testing.assert_close(one.images[0], other.images[0], atol=1e-5, rtol=0)
    expected, _ = rewrite(images[:1], purifier.dictionaries[farthest[0]], purifier.settings.csc)
    torch.testing.assert_close(one.images[:1], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (30, "there is no cluster 30 in this bundle: give an index from 0 to 29"),
        ([0, -1], "there is no cluster -1"),
        ([0, 1, 2], "cluster has shape (3,) for 2 images: give one for all images, or one for each"),
        (torch.zeros(2, 1, dtype=torch.int64), "cluster has shape (2, 1)"),
        (1.0, "whole numbers"),
        (True, "whole numbers"),
        ("nearest", "'nearest' is no index"),
    ],
)
def test_a_cluster_that_does_not_exist_is_named(purifier, images, bad, message):
    with pytest.raises(DataError) as error:
        purifier.purify(images[:2], cluster=bad)
    assert message in str(error.value)


def test_rules_of_choice_are_what_they_say(benchmark, purifier, images, out):
    labels = torch.arange(len(images)) % 10
    chosen = benchmark("choices").choices(purifier, purifier.latents(images), labels, torch.Generator().manual_seed(0))
    distances = purifier.distributions.distance(purifier.latents(images))
    classes = torch.tensor(purifier.bundle.manifest.cluster_class)
    assert torch.equal(chosen["nearest"], out.cluster)
    assert torch.equal(chosen["farthest"], distances.argmax(1))
    assert torch.equal(classes[chosen["own class"]], labels)
    assert (classes[chosen["another class"]] != labels).all()
    nearer = torch.minimum(*(distances.gather(1, chosen[name][:, None]) for name in ("own class", "another class")))
    torch.testing.assert_close(nearer[:, 0], distances.amin(1))
    assert len(chosen["random"].unique()) > 2


@pytest.mark.parametrize("device", ["gpu", "cuda:99", 3.5])
def test_a_device_that_is_not_here_is_named(device):
    with pytest.raises(ConfigError, match=f"device '{device}' cannot be used here: .*; give cpu"):
        raypurify.load("cifar10", device)
    with pytest.raises(ConfigError, match="cannot be used here"):
        raypurify.load("cifar10").to(device)
