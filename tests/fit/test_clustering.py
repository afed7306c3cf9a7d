"""The clusters stage on Ray: the same clusters however a class is cut, resumed, and in spite of lost nodes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.numpy import load_file

from raypurify.clusters import ClusterDistributions, choose_k, fit_kmeans
from raypurify.clusters.covariance import FORMS
from raypurify.config import ClusterSettings
from raypurify.errors import ConfigError, DataError
from raypurify.files import read_json
from raypurify.fit.clustering import cluster
from raypurify.fit.latents import PARTS
from raypurify.runtime.progress import FILE, describe
from raypurify.storage import Place, resolve


def write_latents(folder: Path, of_class: list[list[np.ndarray]], seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Latents of every class in files of several parts, rows numbered at random; (rows, latents) of every class."""
    total = sum(len(part) for parts in of_class for part in parts)
    numbers = iter(np.random.default_rng(seed).permutation(total))
    written = []
    for c, parts in enumerate(of_class):
        place = folder / PARTS / f"label={c}"
        place.mkdir(parents=True)
        rows = [np.sort([next(numbers) for _ in part]) for part in parts]
        for i, (row, part) in enumerate(zip(rows, parts)):
            column = pa.FixedSizeListArray.from_arrays(pa.array(part.astype(np.float32).reshape(-1)), part.shape[1])
            pq.write_table(pa.table({"row": row, "latent": column}), place / f"{i:03d}.parquet")
        order = np.argsort(np.concatenate(rows))
        written.append((np.concatenate(rows)[order], np.concatenate(parts)[order].astype(np.float32)))
    return written


def planted(k: int, n: int, dim: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = 6 * np.linalg.qr(rng.normal(size=(dim, dim)))[0][:k]
    return centres[rng.integers(k, size=n)] + rng.normal(size=(n, dim)) / np.sqrt(dim)


def run(folder: Path, latents: Path, classes: int, rows: int, known: Place | None = None, **settings):
    folder.mkdir(exist_ok=True)
    names = [f"class {c}" for c in range(classes)]
    report = cluster(resolve(folder), resolve(latents), names, rows, ClusterSettings(**settings), 0, known)
    return report, np.load(folder / "cluster_of_row.npy"), load_file(folder / "distributions.safetensors")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """One class of three blocks of 1 MiB, two small ones: (folder, rows in all, what was written)."""
    folder = tmp_path_factory.mktemp("latents")
    big = np.array_split(planted(5, 30000, 24, seed=1), 3)
    written = write_latents(folder, [big, [planted(3, 400, 24, seed=2)], [planted(2, 90, 24, seed=3)]])
    return folder, 30490, written


@pytest.fixture(scope="module")
def in_memory(local_ray, large, tmp_path_factory):
    """Clusters and distributions, of the form that is the default, of classes that are each one block."""
    latents, rows, _ = large
    return run(tmp_path_factory.mktemp("whole"), latents, 3, rows)[1:]


@pytest.mark.parametrize("form", FORMS)
def test_a_class_in_blocks_gets_the_clusters_of_one_in_memory(in_memory, large, tmp_path, form):
    latents, rows, written = large
    whole, of_whole = in_memory
    report, spread, in_blocks = run(tmp_path / "spread", latents, 3, rows, form=form, block_mb=1)
    assert report["cluster_class"] == [0] * 5 + [1] * 3 + [2] * 2
    np.testing.assert_array_equal(spread, whole)
    latents_of_row = np.empty((rows, 24), np.float32)
    for row, part in written:
        latents_of_row[row] = part
    expected = ClusterDistributions.fit(latents_of_row, whole, form=form)
    for state in (in_blocks, of_whole) if form == ClusterSettings().form else (in_blocks,):
        np.testing.assert_allclose(state["means"], expected.means, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(state["rest"], expected.rest, rtol=1e-4)
        gram = np.einsum("kri,krj->kij", state["factors"], state["factors"])
        np.testing.assert_allclose(gram, expected.factors.mT @ expected.factors, rtol=1e-3, atol=1e-3 * gram.max())


@pytest.mark.parametrize("block_mb", [256, 1], ids=["in memory", "in blocks"])
def test_clusters_that_are_known_have_their_distributions_in_other_latents(in_memory, large, tmp_path, block_mb):
    """Those of another network, of the same images: labels stay, and neither k-means nor the elbow is asked."""
    latents, rows, written = large
    _, of_row, before = run(tmp_path / "before", latents, 3, rows)
    rng = np.random.default_rng(7)
    turned = np.linalg.qr(rng.normal(size=(24, 24)))[0]
    other = tmp_path / "other"
    latents_of_row = np.empty((rows, 24), np.float32)
    for c, (row, part) in enumerate(written):
        latents_of_row[row] = moved = (3 * part @ turned + 1).astype(np.float32)
        (other / PARTS / f"label={c}").mkdir(parents=True)
        for i, some in enumerate(np.array_split(rng.permutation(len(row)), 3)):
            column = pa.FixedSizeListArray.from_arrays(pa.array(moved[some].reshape(-1)), 24)
            table = pa.table({"row": row[some], "latent": column})
            pq.write_table(table, other / PARTS / f"label={c}" / f"{i}.parquet", row_group_size=8000)
    known = resolve(tmp_path / "before")
    report, again, state = run(tmp_path / "after", other, 3, rows, known=known, block_mb=block_mb)
    np.testing.assert_array_equal(again, of_row)
    assert report["cluster_class"] == [0] * 5 + [1] * 3 + [2] * 2
    curves = [read_json(resolve(tmp_path / name / "clusters.json"))["wcss"] for name in ("before", "after")]
    assert curves[0] == curves[1]
    expected = ClusterDistributions.fit(latents_of_row, of_row)
    np.testing.assert_allclose(state["means"], expected.means, rtol=1e-4, atol=1e-5)
    gram = np.einsum("kri,krj->kij", state["factors"], state["factors"])
    np.testing.assert_allclose(gram, expected.factors.mT @ expected.factors, rtol=1e-3, atol=1e-3 * gram.max())
    assert np.abs(state["means"] - before["means"]).max() > 1


def test_clusters_of_other_images_are_refused(in_memory, large, tmp_path):
    latents, rows, _ = large
    run(tmp_path / "before", latents, 3, rows)
    write_latents(tmp_path / "other", [[planted(2, 50, 24, seed=c)] for c in range(3)])
    for block_mb in (256, 1):
        with pytest.raises(DataError, match=r"only 50 have latents: .* choose another run directory"):
            run(tmp_path / f"{block_mb}", tmp_path / "other", 3, rows, known=resolve(tmp_path / "before"))


def test_labels_are_those_of_fit_kmeans(local_ray, large, tmp_path):
    latents, rows, written = large
    _, of_row, _ = run(tmp_path / "c", latents, 3, rows, k_max=6)
    first = 0
    for row, part in written:
        fits = [fit_kmeans(part, k) for k in range(1, 7)]
        k = choose_k([fit.inertia for fit in fits])
        # Other numbers of rows draw other starts; planted clusters are found from any.
        pairs = set(zip((of_row[row] - first).tolist(), fits[k - 1].labels.tolist()))
        assert len(pairs) == k
        first += k


@pytest.mark.parametrize("again", [False, True], ids=["clusters", "known clusters"])
def test_an_interrupted_stage_keeps_finished_classes(local_ray, large, tmp_path, again):
    latents, rows, _ = large
    folder, known = tmp_path / "c", None
    if again:
        run(tmp_path / "before", latents, 3, rows)
        known = resolve(tmp_path / "before")
    _, before, state = run(folder, latents, 3, rows, known=known)
    files = sorted(folder.glob("class-*.safetensors"))
    kept = [file.stat().st_mtime_ns for file in files]
    files[1].unlink()
    (folder / FILE).unlink()
    _, after, resumed = run(folder, latents, 3, rows, known=known)
    np.testing.assert_array_equal(before, after)
    assert all((state[name] == resumed[name]).all() for name in state)
    changed = [file.stat().st_mtime_ns != when for file, when in zip(files, kept)]
    assert changed == [False, True, False]
    progress = read_json(folder / FILE)
    assert (progress["done"], progress["total"], progress["start"]) == (rows, rows, rows - 400)
    assert "classes 3/3" in describe(progress)


@pytest.mark.parametrize("form", FORMS)
def test_classes_too_small_for_a_distribution(local_ray, tmp_path, form):
    one, same = np.full((1, 6), 5.0), np.full((7, 6), -3.0)
    some = np.random.default_rng(0).normal(size=(50, 6))
    written = write_latents(tmp_path, [[one], [same], [some]])
    report, of_row, state = run(tmp_path / "c", tmp_path, 3, 58, form=form, k_max=2)
    assert report["cluster_class"][:2] == [0, 1]
    assert report["smallest"] == 1
    rows = np.argsort(np.concatenate([row for row, _ in written]))
    expected = ClusterDistributions.fit(np.concatenate([part for _, part in written])[rows], of_row, form=form)
    latents = 3 * np.random.default_rng(1).normal(size=(20, 6)).astype(np.float32)
    found = ClusterDistributions.from_state({name: expected.means.new_tensor(a) for name, a in state.items()}, form)
    np.testing.assert_allclose(found.distance(latents), expected.distance(latents), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("again", [False, True], ids=["clusters", "known clusters"])
def test_a_latent_that_is_not_finite_is_named_by_its_row(local_ray, tmp_path, again):
    rows = np.random.default_rng(0).normal(size=(60, 4))
    known = None
    if again:
        write_latents(tmp_path / "finite", [[rows[:30], rows[30:]]])
        run(tmp_path / "before", tmp_path / "finite", 1, 60, k_max=2)
        known = resolve(tmp_path / "before")
    rows[7] = np.nan
    row = write_latents(tmp_path, [[rows[:30], rows[30:]]])[0][0]
    first = sorted(
        row[np.isnan(pq.read_table(tmp_path / PARTS, partitioning=None).sort_by("row")["latent"].to_pylist())[:, 0]]
    )
    with pytest.raises(DataError, match=f"row {first[0]} is not finite"):
        run(tmp_path / "c", tmp_path, 1, 60, known=known)


def test_more_axes_than_a_bundle_may_hold_are_refused_before_the_work(local_ray, tmp_path, monkeypatch):
    write_latents(tmp_path, [[np.random.default_rng(0).normal(size=(60, 16))]] * 3)
    monkeypatch.setattr("raypurify.fit.clustering.MAX_BYTES", 3000)
    with pytest.raises(ConfigError, match=r"3 clusters with 16 axes .* clusters\.form to ridge"):
        run(tmp_path / "c", tmp_path, 3, 180, form="shrinkage", k=1)
    assert not list((tmp_path / "c").glob("class-*"))


def test_the_curve_is_drawn(local_ray, large, tmp_path):
    latents, rows, _ = large
    run(tmp_path / "c", latents, 3, rows)
    with Image.open(tmp_path / "c" / "elbow.png") as picture:
        assert picture.width > 300
    curves = json.loads((tmp_path / "c" / "clusters.json").read_text())["wcss"]
    assert [list(curve) for curve in curves] == [[str(k) for k in range(1, 9)]] * 3
    assert all(list(curve.values()) == sorted(curve.values(), reverse=True) for curve in curves)


@pytest.mark.parametrize(
    ("settings", "of_class"),
    [({"k": 3}, [3, 3, 1]), ({"k_min": 4, "k_max": 6}, [5, 4, 1]), ({"k_max": 1}, [1, 1, 1])],
)
def test_numbers_of_clusters_by_setting(local_ray, tmp_path, settings, of_class):
    five, two = planted(5, 300, 8, seed=1), planted(2, 60, 8, seed=2)
    write_latents(tmp_path, [[five], [two], [np.ones((2, 8))]])
    report, _, _ = run(tmp_path / "c", tmp_path, 3, 362, **settings)
    assert np.bincount(report["cluster_class"]).tolist() == of_class
    with Image.open(tmp_path / "c" / "elbow.png") as picture:
        assert picture.height > 100


@pytest.mark.slow
def test_lost_nodes_change_no_label(local_ray, tmp_path):
    big = np.array_split(planted(4, 60000, 24, seed=1) * 0.2, 5)
    write_latents(tmp_path / "latents", [big, [planted(2, 100, 24, seed=2)]])
    settings = {"block_mb": 1, "k_max": 10}
    classes = ["class 0", "class 1"]
    (tmp_path / "task.json").write_text(json.dumps({"classes": classes, "rows": 60100, "settings": settings}))
    script = Path(__file__).with_name("clustering_node_loss.py")
    subprocess.run([sys.executable, script, tmp_path], check=True, timeout=240)
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["left"] == 0
    assert len(facts["passes"]) == 2
    run(tmp_path / "alone", tmp_path / "latents", 2, 60100, **settings)
    for name in ("cluster_of_row.npy", "distributions.safetensors", "clusters.json"):
        assert (tmp_path / "c" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
