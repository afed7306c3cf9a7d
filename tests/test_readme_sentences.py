"""Figures in the sentences of README and docs are those of the committed results."""

import csv
import json

import pytest
from committed_results import REPOSITORY, RESULTS, cells_of, sentences_of


@pytest.mark.parametrize("name", ["cifar10", "imagenet10"])
def test_figures_of_the_bundles_are_those_of_their_manifests(name):
    from raypurify.bundle import read_manifest

    manifest = read_manifest(REPOSITORY / "raypurify" / "bundles" / name)
    text = sentences_of("README.md")
    clean, attacked, attack = (manifest.measured[part] for part in ("clean", "attacked", "attack"))
    said = text.partition(f"`{name}`")[2] if name == "cifar10" else text.partition("That of `imagenet10`")[2]
    budget = {"l2": f"L2 {attack['eps']}", "linf": f"L∞ {round(255 * attack['eps'])}/255"}[attack["norm"]]
    assert (
        f"right on {100 * clean['robust']:.1f} % of clean ones (n = {clean['images']}) and on "
        f"{100 * attacked['robust_attacked']:.1f} % of those attacked with {attack['steps']}-step PGD at {budget} "
        f"(n = {attacked['images']})"
    ) in said
    if name == "imagenet10":
        assert f"from {manifest.training_data['train']:,} images" in said
        assert (
            f"leaves {100 * attacked['baseline_attacked']:.1f} %, `imagenet10` purifies to "
            f"{100 * attacked['baseline_attacked_purified']:.1f} %, clean ones to "
            f"{100 * attacked['baseline_clean_purified']:.1f} % of {100 * attacked['baseline_clean']:.1f} % "
            f"(n = {attacked['images']})"
        ) in said


def compared(name: str) -> dict[tuple[str, str], tuple[float, float, float]]:
    """By (attack, other purifier) how much more the reference leaves, in points, with the interval."""
    with (RESULTS / name / "comparisons.csv").open(encoding="utf-8") as file:
        rows = csv.DictReader(file)
        return {(r["attack"], r["other"]): tuple(100 * float(r[key]) for key in ("value", "low", "high")) for r in rows}


def in_words(difference: tuple[float, float, float]) -> str:
    return "{:.1f} ({:.1f} to {:.1f})".format(*difference)


def retrained_in_words() -> str:
    found = cells_of("cifar10-retrained")
    known = {
        attack: value for (c, attack, p), value in found.items() if (c, p) == ("retrained, known", "RSFP, stronger")
    }
    transfer = found["retrained", "mean of attacks", "RSFP, stronger"]
    return (
        f"right on {known['clean']:.1f} % of clean images and, attacked by one who has its new weights, on "
        f"{known['mean of attacks']:.1f} % of attacked ones, the mean of attacks that fill their budget (n = 1000). "
        "BPDA of 20 steps, the one attack tried there that knows the purifier, leaves it "
        f"{known['BPDA']:.1f} %, which is a bound from above; one who still has the weights from before the "
        f"retraining, a transfer, {transfer:.1f} %"
    )


MEAN_AND_CLEAN = ("mean of attacks", "clean")
NO_TRANSFORMATIONS = ("one dictionary", "STL", "STL, as RSFP chooses λ", "denoiser, noise 0.15")


def others_in_words() -> str:
    rows = compared("cifar10")
    behind = {other: value for (attack, other), (value, _, _) in rows.items() if attack == "mean of attacks"}
    best = min((other for other in behind if other not in (*NO_TRANSFORMATIONS, "none")), key=behind.get)
    assert best == "non-local means, h 0.1"
    transformed, stl = (rows["mean of attacks", name] for name in (best, "STL, as RSFP chooses λ"))
    denoiser, one = ([rows[a, name] for a in MEAN_AND_CLEAN] for name in ("denoiser, noise 0.15", "one dictionary"))
    value, low, high = transformed
    return (
        f"non-local means, by {value:.1f} points on the mean of attacks ({low:.1f} to {high:.1f}). Three come closer: "
        "STL, with λ chosen as RSFP chooses it, is {:.1f} points behind ({:.1f} to {:.1f}), ".format(*stl)
        + f"a small denoiser that is given noise to take away {in_words(denoiser[0])}, but "
        + "{:.1f} on clean images ({:.1f} to {:.1f}), and RSFP with one dictionary ".format(*denoiser[1])
        + f"for all images, which needs neither clusters nor a network, {in_words(one[0])}, and "
        + "{:.1f} on clean ones ({:.1f} to {:.1f})".format(*one[1])
    )


def dictionaries_in_words() -> str:
    found = cells_of("dictionaries")
    mean = {p: value for (_, attack, p), value in found.items() if attack == "mean of attacks"}
    more = {p: value - mean["64 atoms of 8×8"] for p, value in mean.items()}
    return (
        f"11×11 give {more['atoms of 11×11']:.1f} points more than 8×8 on the mean over FGSM and BIM, and 5×5 take "
        f"{-more['atoms of 5×5']:.1f}. Twice the atoms give {more['128 atoms']:.2f}. None of these differences has an "
        "interval. Against these attackers one dictionary for all images does about what thirty do: "
        f"{-more['one dictionary']:.1f} points less"
    )


def sweep_in_words() -> str:
    rows = compared("sweep")
    paper, clean = (rows[attack, "paper"] for attack in MEAN_AND_CLEAN)
    refit, noise = (rows["mean of attacks", name] for name in ("noise 10", "refit"))
    one, kept = (rows[attack, "λ 0.3, refit"] for attack in MEAN_AND_CLEAN)
    return (
        "{:.1f} points ahead of the row *paper* on the mean of attacks ({:.1f} to {:.1f}), and ".format(*paper)
        + "{:.1f} on clean images ({:.1f} to {:.1f}). Both settings have a part in it: without the ".format(*clean)
        + "refit it is {:.1f} behind itself ({:.1f} to {:.1f}), without the noise ".format(*refit)
        + f"{in_words(noise)}. One λ of 0.3 for all images and the refit do as well under attack "
        + f"({one[0]:.1f} behind, −{-one[1]:.1f} to {one[2]:.1f}), at "
        + "{:.1f} points of clean images ({:.1f} to {:.1f})".format(*kept)
    )


def imagenette_in_words() -> str:
    rows = compared("imagenette")
    mean = {other: found for (attack, other), found in rows.items() if attack == "mean of attacks"}
    quilting, denoiser, nlm, jpeg = (
        mean[name] for name in ("quilting, 196,000 patches", "denoiser, noise 0.1", "non-local means, h 0.1", "JPEG-25")
    )
    stl, region = mean["STL, noise 10, refit"], mean["RegionSparse, K 4"]
    filled = rows["DeepFool, filled", "denoiser, noise 0.1"]
    # Of all others RSFP is ahead by more than the interval.
    assert {name for name, (_, low, _) in mean.items() if low <= 0} == {
        "quilting, 196,000 patches",
        "denoiser, noise 0.1",
    }
    assert all(value > 0 for value, _, _ in mean.values())
    return (
        "not to be told apart on the mean of attacks (RSFP less quilting "
        f"{quilting[0]:.1f}, −{-quilting[1]:.1f} to {quilting[2]:.1f}; less the denoiser {denoiser[0]:.1f}, "
        f"−{-denoiser[1]:.1f} to {denoiser[2]:.1f}). "
        + "Under filled DeepFool, which is not in the mean, the denoiser is {:.1f} ahead ({:.1f} to {:.1f}). ".format(
            *(abs(part) for part in (filled[0], filled[2], filled[1]))
        )
        + "Of clean images RSFP keeps {:.1f} points more than quilting ({:.1f} to {:.1f}) and ".format(
            *rows["clean", "quilting, 196,000 patches"]
        )
        + "{:.1f} more than the denoiser ({:.1f} to {:.1f}). ".format(*rows["clean", "denoiser, noise 0.1"])
        + f"It is ahead of all others: of non-local means by {in_words(nlm)}, of JPEG by {in_words(jpeg)}, of STL "
        + f"with λ chosen in its way by {in_words(stl)}, of RegionSparse by {in_words(region)}. "
        + f"As it is shipped it is {in_words(mean['RSFP'])} behind itself"
    )


def robust_network_in_words() -> str:
    found = cells_of("cifar10-linf")
    pgd, auto = (found["robust network", attack, "none"] for attack in ("PGD", "AutoAttack"))
    return f"that attack leaves it {pgd:.1f} %, and AutoAttack of that size leaves it {auto:.1f} % (n = 1000)"


def autoattack_in_words() -> str:
    found = cells_of("cifar10-linf")
    bare, purified = (found["robust network", "AutoAttack", row] for row in ("none", "RSFP"))
    return f"fare better under it, {purified:.1f} against {bare:.1f} %"


def gray_box_worst_in_words() -> str:
    found = cells_of("cifar10-linf")
    of = {p: {a: v for (c, a, q), v in found.items() if (c, q) == ("robust network", p)} for p in ("none", "RSFP")}
    bare, purified = (min(cells, key=cells.get) for cells in of.values())
    assert (bare, purified) == ("AutoAttack", "MIM")
    return (
        f"worst case is {of['none'][bare]:.1f} % at most without it; with it {purified}, not {bare}, is the strongest "
        f"of these attacks, so that it is {of['RSFP'][purified]:.1f} % at most"
    )


def semantic_losses_in_words() -> str:
    trainings = json.loads((RESULTS / "semantic_losses.json").read_text("utf-8"))["trainings"]
    found = {name: {a: 100 * v for a, v in runs[0]["accuracy"].items()} for name, runs in trainings.items()}
    plain = [of for name, of in found.items() if "+" not in name]
    assert {of[attack] for of in plain for attack in ("BIM", "MIM", "PGD", "AutoAttack")} == {0}
    fgsm, held, cross = [of["FGSM"] for of in plain], found["pcl + FGSM"], found["softmax + FGSM"]
    return (
        f"leave every one 0.0 %, PGD of 0.01 {max(of['PGD 0.01'] for of in plain):.1f} % at most, FGSM "
        f"{min(fgsm):.1f} to {max(fgsm):.1f} %. In the paper's Table 3 FGSM leaves PCL 67.7 % and PGD 27.2 %, "
        "cross-entropy 21.4 and 0.01: of that nothing is seen at this size. - **With attacked images PCL withstands "
        f"more.** PGD of 100 steps leaves {held['PGD-100']:.1f} % with it and {cross['PGD-100']:.1f} % without, "
        f"AutoAttack {held['AutoAttack']:.1f} % and {cross['AutoAttack']:.1f} %, and of clean images it has "
        f"{held['clean']:.1f} % for {cross['clean']:.1f} %. Cross-entropy has learned the one step that it was shown, "
        f"of which it has {cross['FGSM']:.1f} %"
    )


def costs_in_words() -> str:
    seconds = json.loads((RESULTS / "purifiers.json").read_text("utf-8"))["seconds"].values()
    stl, denoiser = (
        [size[name] / size["RSFP"] for size in seconds] for name in ("STL, as RSFP chooses λ", "denoiser, noise 0.15")
    )
    return "STL, with λ so chosen, takes {:.2f} of the time at 32² and {:.2f} at 224², ".format(
        *stl
    ) + "the denoiser {:.2f} and {:.2f}".format(*denoiser)


WORDS = {
    costs_in_words: "README.md",
    semantic_losses_in_words: "docs/training.md",
    retrained_in_words: "README.md",
    others_in_words: "README.md",
    dictionaries_in_words: "docs/algorithm.md",
    sweep_in_words: "docs/algorithm.md",
    imagenette_in_words: "docs/results.md",
    robust_network_in_words: "README.md",
    autoattack_in_words: "docs/results.md",
    gray_box_worst_in_words: "docs/results.md",
}


@pytest.mark.parametrize("words", WORDS, ids=lambda words: words.__name__)
def test_figures_in_words_are_those_of_the_committed_results(words):
    assert words() in sentences_of(WORDS[words])


CLAIMED = ("cifar10", "cifar10-adaptive", "cifar10-retrained", "figure5", "table1", "table2")


def claims_in_words() -> list[str]:
    """What docs/claims.md says in words, from everywhere."""
    grids = {name: cells_of(name) for name in CLAIMED}
    solver = grids["cifar10-adaptive"]["ResNet-56", "solver", "RSFP"]
    bare, purified = (
        {attack: grids["cifar10"]["ResNet-56", attack, row] for attack in ("clean", "BIM")} for row in ("none", "RSFP")
    )
    retrained = grids["cifar10-retrained"]["retrained, known", "clean", "RSFP, stronger"]
    rows = {other: found for (attack, other), found in compared("cifar10").items() if attack == "mean of attacks"}
    others = {name: found for name, found in rows.items() if name not in (*NO_TRANSFORMATIONS, "none")}
    assert len(others) == 8
    nearest, stl = min(others.values()), [rows[name] for name in ("STL", "STL, as RSFP chooses λ")]
    dictionary = [compared("cifar10")[attack, "one dictionary"] for attack in ("clean", "mean of attacks")]
    measured = json.loads((REPOSITORY / "raypurify/bundles/cifar10/manifest.json").read_text("utf-8"))["measured"]
    clean, attacked = (measured["clean"]["cluster_class"], measured["attacked"]["cluster_class_attacked"])
    mean = {
        p: [v for (_, a, q), v in grids["table2"].items() if (a, q) == ("mean of attacks", p)] for p in ("none", "RSFP")
    }
    choices = json.loads((RESULTS / "choices.json").read_text("utf-8"))["attacks"]
    farthest = choices["BIM, 20 steps"]["cells"]["farthest"]["minus_nearest"]["value"]
    one = choices["clean"]["cells"]["one dictionary"]["minus_nearest"]["value"]
    levels = {
        (attack, p): grids["figure5"]["ResNet-56", attack, p]
        for attack in ("2 grey levels", "24")
        for p in ("none", "RSFP")
    }
    pull = [grids["table1"][row, "PGD", "none"] for row in ("PGDAT+RST (PGDAT)", "PGDAT (PGDAT)")]
    return [
        f"PGD leaves {pull[0]:.1f} % with it, {pull[1]:.1f} % without (n = 1000",
        f"{levels['2 grey levels', 'RSFP']:.1f} for {levels['2 grey levels', 'none']:.1f} %",
        f"{levels['24', 'RSFP']:.1f} for {levels['24', 'none']:.1f} %",
        f"leaves a ResNet-56 behind RSFP {solver:.1f} % (n = 500)",
        f"{bare['clean']:.1f} % falls to {purified['clean']:.1f} % (n = 1000)",
        f"has {retrained:.1f} %",
        f"under BIM {bare['BIM']:.1f} % becomes {purified['BIM']:.1f} % (n = 1000)",
        f"{nearest[0]:.1f} points ahead of the best of eight filters on the mean of attacks "
        + f"({nearest[1]:.1f} to {nearest[2]:.1f}, n = 1000), "
        + "{:.1f} ahead of a denoiser given noise ({:.1f} to {:.1f})".format(*rows["denoiser, noise 0.15"]),
        "by {:.1f} points on the mean of attacks ({:.1f} to {:.1f}, n = 1000), each as shipped; ".format(*stl[0])
        + "by {:.1f} ({:.1f} to {:.1f}) where STL chooses λ as RSFP does".format(*stl[1]),
        "costs clean ones {:.1f} points ({:.1f} to {:.1f}), attacked ones ".format(*dictionary[0])
        + "{:.1f} on the mean ({:.1f} to {:.1f}, n = 1000)".format(*dictionary[1]),
        "level with quilting and a denoiser (n = 400)",
        f"for {100 * clean:.1f} % of clean images (n = 5000), for {100 * attacked:.1f} % of those attacked on another",
        f"{min(mean['none']):.1f} to {max(mean['none']):.1f} % on the mean, becomes {min(mean['RSFP']):.1f} to "
        f"{max(mean['RSFP']):.1f} %",
        f"the dictionary that is farthest takes {-100 * farthest:.1f} points",
        f"One dictionary costs clean images {-100 * one:.1f} points",
    ]


def test_claims_in_words_are_those_of_the_committed_results():
    page = sentences_of("docs/claims.md")
    assert [words for words in claims_in_words() if words not in page] == []


def test_what_the_readme_opens_with_is_of_the_committed_results():
    found, said = cells_of("cifar10"), sentences_of("README.md")
    of = {(a, p): value for (_, a, p), value in found.items()}
    solver = cells_of("cifar10-adaptive")["ResNet-56", "solver", "RSFP"]
    assert (
        f"under BIM a ResNet-56 gets {of['BIM', 'RSFP']:.1f} % right behind it and {of['BIM', 'none']:.1f} % without, "
        f"of clean ones {of['clean', 'RSFP']:.1f} instead of {of['clean', 'none']:.1f} % (n = 1000). "
        f"One who differentiates it leaves {solver:.1f} % (n = 500)"
    ) in said
    assert f"next to nothing ({solver:.1f} %, n = 500)" in said


def test_what_the_readme_says_of_imagenet_is_of_the_committed_results():
    mean = {p: value for (_, a, p), value in cells_of("imagenette").items() if a == "mean of attacks"}
    said = sentences_of("README.md")
    assert (
        f"as `imagenet10` is shipped RSFP leaves {mean['RSFP']:.1f} % on the mean of attacks, JPEG-25 "
        f"{mean['JPEG-25']:.1f} %, quilting {mean['quilting, 196,000 patches']:.1f} %, a denoiser given noise "
        f"{mean['denoiser, noise 0.1']:.1f} % (n = 400)"
    ) in said
    assert f"chosen on held-out images, {mean['RSFP, noise 14, refit']:.1f} %" in said
    rows = compared("imagenette-128")
    ahead = {other: found for (attack, other), found in rows.items() if attack == "mean of attacks"}
    quilting = "{:.1f} points ({:.1f} to {:.1f}".format(
        *(abs(ahead["quilting, 196,000 patches"][k]) for k in (0, 2, 1))
    )
    assert f"quilting is ahead by {quilting}, n = 400)" in said
    there = sentences_of("docs/results.md")
    assert f"ahead of RSFP with its settings of 64² on the mean of attacks, by {quilting})" in there
    within = "JPEG-25", "denoiser, noise 0.1", "non-local means, h 0.1"
    above = "JPEG ({:.1f}), a denoiser that is given noise ({:.1f}) and non-local means ({:.1f}) are above it by less"
    assert above.format(*(-ahead[name][0] for name in within)) in there
    # Above it, told apart or not; not told apart below it; and all others behind.
    assert {name for name, (value, _, _) in ahead.items() if value < 0} == {"quilting, 196,000 patches", *within}
    assert {name for name, (value, low, _) in ahead.items() if low <= 0 < value} == {
        "TVM, λ 0.02",
        "median 4",
        "PD-Ens, σ 0.08",
    }
    for name, words in (("STL, noise 10, refit", "STL"), ("RegionSparse, K 4", "RegionSparse")):
        assert f"of {words} by {in_words(ahead[name])}" in there
    assert f"of itself as it is shipped by {in_words(ahead['RSFP'])}" in there
    kept = {other: found for (attack, other), found in rows.items() if attack == "clean"}
    assert "quilting ({:.1f} points, {:.1f} to {:.1f})".format(*kept["quilting, 196,000 patches"]) in there
    assert "the denoiser ({:.1f}, {:.1f} to {:.1f})".format(*kept["denoiser, noise 0.1"]) in there
    assert "JPEG ({:.1f}, {:.1f} to {:.1f})".format(*kept["JPEG-25"]) in there


@pytest.mark.parametrize(("table", "images"), [("rsfp-3", 56), ("rsfp-4-64", 32)])
def test_the_papers_figures_are_those_of_as_few_images(table, images):
    from raypurify.evaluation.intervals import wilson
    from raypurify.evaluation.papers import TABLES

    shares = [images * figure / 100 for figure in TABLES[table].rows["RSFP"][1:]]
    # The paper cuts figures off at two digits.
    assert [round(share) for share in shares] == pytest.approx(shares, abs=images * 0.01 / 100)
    said = sentences_of("docs/claims.md")
    assert f"1/{images} in Table" in said
    assert "75 % has the interval {:.1f} to {:.1f} (n = 56)".format(*(100 * bound for bound in wilson(42, 56))) in said


def test_speed_is_that_of_the_committed_results():
    lines = (REPOSITORY / "benchmarks" / "results" / "csc.jsonl").read_text("utf-8").splitlines()
    cases = {record["case"]: record for record in map(json.loads, lines)}
    small, large = cases["32², batch 64, λ = 0.2"], cases["224², batch 1, λ = 0.2"]
    text = sentences_of("README.md")
    assert f"is {small['speedup']:.0f} times as fast as sporco on 64 images of 32²" in text
    assert f"and {large['speedup']:.0f} times on one of 224²" in text
    assert max(small["excess"], large["excess"]) <= 0
