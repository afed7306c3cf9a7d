"""What the pages say about forms of distance and about the elbow comes from committed results."""

import json
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
ALGORITHM = (REPOSITORY / "docs" / "algorithm.md").read_text("utf-8")
CLUSTERS = (REPOSITORY / "docs" / "clusters.md").read_text("utf-8")
DECISIONS = " ".join((REPOSITORY / "docs" / "decisions.md").read_text("utf-8").split())


def committed(script) -> dict:
    return json.loads(script.RESULTS.read_text("utf-8"))


def block(name: str, page: str = ALGORITHM) -> str:
    return page.partition(f"<!-- {name} -->")[2].partition(f"<!-- /{name} -->")[0].strip()


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def test_table_of_forms_is_that_of_the_committed_results(benchmark):
    forms = benchmark("cluster_forms")
    results = committed(forms)
    assert block("cluster_forms") == forms.table(results)
    assert f"`{results['command']}`" in ALGORITHM


def test_tables_of_the_elbow_are_those_of_the_committed_results(benchmark):
    elbow = benchmark("elbow")
    results = committed(elbow)
    assert block("elbow") == elbow.stability_table(results)
    assert block("planted") == elbow.planted_table(results)
    assert f"`{results['command']}`" in ALGORITHM


def test_forms_were_measured_on_the_run_the_elbow_was(benchmark):
    assert committed(benchmark("cluster_forms"))["bundle"] == committed(benchmark("elbow"))["bundle"]


def test_sentences_on_forms_are_those_of_the_committed_results(benchmark):
    regimes = committed(benchmark("cluster_forms"))["regimes"]
    words = " ".join(ALGORITHM.split())

    def points(regime: str, form: str, other: str = "shrinkage") -> float:
        clean = regimes[regime]["sets"]["clean"]
        return 100 * (clean[form]["right_class"] - clean[other]["right_class"])

    assert min(points(regime, "ridge 64") for regime in regimes) >= 0
    own_gain, low, high = (
        100 * value for value in regimes["run's clusters"]["sets"]["clean"]["ridge 64"]["minus_shrinkage"]
    )
    assert f"{own_gain:.1f} points ahead of it on the run's clusters" in words
    assert f"(95 % interval {low:+.1f} to {high:+.1f})" in words
    assert (
        f"{points('k = 32', 'ridge 64'):.1f} at k = 32, {points('20 images a class', 'ridge 64'):.1f} with 20" in words
    )
    assert points("k = 32", "ridge 8", "ridge 64") > -2.1
    assert points("run's clusters", "ridge 8", "ridge 64") >= 0
    middle, low, high = (100 * v for v in regimes["run's clusters"]["sets"]["clean"]["pinv"]["minus_shrinkage"])
    assert f"({middle:+.2f} points, {low:+.2f} to {high:+.2f}, on the run's clusters)" in words
    few = regimes["20 images a class"]
    right = {form: percent(row["right_class"]) for form, row in few["sets"]["clean"].items()}
    zero = few["pinv_on_clean"]["images_at_distance_zero"]
    assert f"{100 * zero:.0f} % of the clean images are at distance 0 from some cluster, and {right['pinv']}" in words
    assert f"is {points('100 images a class', 'pinv'):.1f} points above `shrinkage`" in words
    assert f"{points('k = 32', 'Euclidean', 'ridge 64'):.1f} points ahead of `ridge` at k = 32" in words
    few_images = [points(f"{n} images a class", "Euclidean", "ridge 64") for n in (20, 50, 100)]
    assert f"up to {max(few_images):.1f} on few images" in words
    own, one = (points(regime, "ridge 64", "Euclidean") for regime in ("run's clusters", "k = 1"))
    assert f"({own:.1f} points) and most at k = 1 ({one:.1f} points)" in words
    assert f"right class for {right['ridge 64']} of clean images with ridge, {right['shrinkage']} with" in DECISIONS
    assert f"{right['pinv']} with the pseudo-inverse (Euclidean: {right['Euclidean']})" in DECISIONS


def test_sentences_on_the_elbow_are_those_of_the_committed_results(benchmark):
    results = committed(benchmark("elbow"))
    chord, words = results["rules"]["chord"], " ".join(ALGORITHM.split())
    assert f"{chord['resamples_same_at_both_k_max']} of {chord['of']} resamples got the same" in words
    few, many = (set(chord["k_max"][k_max]["whole"]) for k_max in ("8", "12"))
    assert f"{few.pop()} for every class at `k_max` 8, and {many.pop()} at 12" in DECISIONS
    assert not few | many
    cases = {(case["centres"], case["clusters"]): case["found"]["chord"] for case in results["planted"]["cases"]}
    assert cases["equal", 8]["8"] == 0
    found = cases["gaussian", 6]
    assert f"found in {found['8']} of {results['planted']['trials']} trials with `k_max` 8, in {found['12']}" in words


def test_figures_of_the_clusters_stage_are_those_of_the_committed_results(benchmark):
    clusters = benchmark("clusters")
    results = committed(clusters)
    assert block("clusters", CLUSTERS) == clusters.table(results)
    assert f"`{results['command']}` on two cores, medians of {results['repeats']}" in CLUSTERS
    assert results["cores"] == 2
    assert f"to the power {results['growth']['exponent']:.2f}." in CLUSTERS
    sizes = [line["worker_mb"] for line in results["growth"]["sizes"]]
    assert max(sizes) < 1.15 * min(sizes)
    assert f"of {results['growth']['block_mb']} MiB here" in " ".join(CLUSTERS.split())


def test_figures_of_the_dictionaries_stage_are_those_of_the_committed_results(benchmark):
    results = committed(benchmark("dictionaries"))
    words = " ".join(CLUSTERS.split())
    assert f"`{results['command']}`" in words
    assert f"{results['speedup_of_the_stage']:.2f} times as fast as one" in words
    assert f"{results['speedup_of_the_learning']:.2f} times without" in words
    assert f"{results['clusters']} clusters of {results['images_per_cluster']:,} images" in words


def test_figures_of_the_nearest_cluster_are_those_of_the_committed_results(benchmark):
    nearest = benchmark("clusters_nearest")
    lines = [json.loads(line) for line in nearest.RESULTS.read_text("utf-8").splitlines()]
    assert block("nearest", CLUSTERS) == nearest.table(lines)
    assert all(line["differ"] == 0 for line in lines)
    cases = [nearest.CASES.index((line["geometry"], line["means"], line["form"])) for line in lines]
    assert f"--cases {' '.join(map(str, cases))} --repeats 2`" in CLUSTERS
    assert {line["size"] for line in lines} == {"imagenet"}


@pytest.mark.parametrize("name", ["cluster_forms", "elbow", "clusters", "dictionaries"])
def test_results_name_no_path_of_a_machine(benchmark, name):
    results = committed(benchmark(name))
    assert results["command"].startswith(f"python benchmarks/{name}.py --run-dir RUN")
    assert "/" not in results["command"].replace("benchmarks/", "")


def test_rules_answer_planted_clusters_where_curves_are_known(benchmark):
    elbow = benchmark("elbow")
    # log W falls by the same step from 3 clusters on, by more before.
    curve = [100, 50, 20, 19, 18.05, 17.1475]
    assert [rule(curve) for rule in elbow.RULES.values()] == [3, 3, 3, 3]
    assert elbow.pham([100, 90, 82, 76]) == 1
