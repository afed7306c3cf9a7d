"""What a classifier sees in clean, attacked and purified images, as sections of a report (after RegionSparse)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from raypurify.attacks.budget import eight_bit
from raypurify.evaluation import figures
from raypurify.evaluation.attacked import read_attacked
from raypurify.evaluation.batches import GridBatch
from raypurify.evaluation.cells import read_columns
from raypurify.evaluation.grid import CellName
from raypurify.evaluation.plan import GridPlan
from raypurify.evaluation.render import Section
from raypurify.evaluation.subjects import Subjects, predict
from raypurify.evaluation.tables import as_csv
from raypurify.nets.activations import class_activation_maps, layer_activations

CSV = "activations.csv"


def activation_sections(plan: GridPlan, subjects: Subjects, batch: GridBatch, classes: Sequence[str]) -> list[Section]:
    """Class activation maps of a few images, and the activation of each layer, of the first classifier: on clean images
    of the first batch, on the same attacked, and as the reference or else the first purifier that changes an image
    leaves those. The figures of the second are written to ``activations.csv``.

    The attack is that of ``report.attack``, or the last of one who knows the classifier alone. Nothing where the grid
    has no attack to show, or ``report`` asks for none.
    """
    grid, (classifier, _) = plan.grid, plan.grid.shown
    attack = grid.report.attack or next(reversed(grid.gray), None)
    if attack is None:
        return []
    defended = [p for p in grid.rows(classifier) if p in grid.defended]
    purifier = grid.reference if grid.reference in defended else next(iter(defended), None)
    stored = read_attacked(plan.adversarial(CellName(classifier, attack, purifier or grid.rows(classifier)[0]), 0))
    if stored is None:
        return []

    def shown(which: np.ndarray, *purified: str) -> dict[str, Tensor]:
        images = {"clean": torch.from_numpy(batch.pixels[which]).float() / 255, "attacked": stored[which]}
        for name in purified:
            if purifier is not None:
                done = subjects.purifier(purifier).purify(images[name]).images.cpu()
                images[f"{name}, purified"] = eight_bit(done) if grid.eight_bit else done
        return images

    about = f"{attack} on {classifier}" + (f", purified by {purifier}" if purifier else "")
    sections = []
    if grid.report.maps:
        which = _fooled(plan, CellName(classifier, attack, ""), len(batch.ids))[: grid.report.maps]
        sections.append(_maps(subjects, classifier, shown(which, "attacked"), batch.labels[which], classes, about))
    if count := min(grid.report.layers, len(batch.ids)):
        sections.append(_layers(plan, subjects, classifier, shown(np.arange(count), "attacked", "clean"), about))
    return sections


def _fooled(plan: GridPlan, name: CellName, count: int) -> np.ndarray:
    """The places in the first batch of images that are right when clean and wrong when attacked, with no purifier; all
    of them where the grid does not say, or there are none."""
    grid = plan.grid
    clean = next((attack for attack, spec in grid.attacks.items() if spec.attack == "clean"), "")
    bare = next(iter(grid.bare), "")
    before, after = (name._replace(attack=attack, purifier=bare) for attack in (clean, name.attack))
    if before not in plan.keys or after not in plan.keys:
        return np.arange(count)
    right, still = (read_columns([plan.cell(one, 0)])[0]["correct"] for one in (before, after))
    found = np.flatnonzero(right & ~still)
    return found if len(found) else np.arange(count)


def _maps(
    subjects: Subjects,
    classifier: str,
    images: dict[str, Tensor],
    labels: np.ndarray,
    classes: Sequence[str],
    about: str,
) -> Section:
    network, rows = subjects.classifier(classifier), {}

    def named(index: int) -> str:
        return classes[index] if index < len(classes) else str(index)

    for name, shown in images.items():
        predicted = predict(network, shown)
        maps = class_activation_maps(network, shown, predicted)
        if maps is None:
            none = f"{classifier} has none: it is not a network whose last convolution can be seen."
            return Section("Class activation maps", (none,))
        pixels = (255 * shown).round().to(torch.uint8).numpy()
        rows[name] = (pixels, maps.numpy(), [named(int(one)) for one in predicted])
    text = (
        f"{about}: where the classifier looks for the class that it finds, which stands below each image; above stands "
        "the class that it is of. They are the first images that are right when clean and wrong when attacked, where "
        "there are such. Red is most, blue none; each map by its own largest value.",
    )
    picture = figures.attention([named(int(label)) for label in labels], rows)
    return Section("Class activation maps", text, None, (("attention.png", picture),))


def _layers(plan: GridPlan, subjects: Subjects, classifier: str, images: dict[str, Tensor], about: str) -> Section:
    title, threshold = "Activation of the layers", plan.grid.report.threshold
    network = subjects.classifier(classifier)
    sums = {name: layer_activations(network, shown, threshold).sum(0).numpy() for name, shown in images.items()}
    clean = sums.pop("clean")
    if not clean.size:
        return Section(title, (f"{classifier} has none that can be seen.",))
    ratios = {name: values / np.where(clean > 0, clean, np.nan) for name, values in sums.items()}
    rows = [{"layer": k + 1, "clean": clean[k], **{n: v[k] for n, v in sums.items()}} for k in range(len(clean))]
    (plan.out / CSV).write(as_csv(rows).encode())
    ends = ", ".join(f"{name} {values[-1]:.3f}" for name, values in ratios.items())
    text = (
        f"{about}: the sum of what the detectors of a layer answer above {threshold:g} (RegionSparse, equation 7), "
        f"over that for the same images when clean, the first {len(images['clean'])}. In the last layer: {ends}.",
    )
    return Section(title, text, None, (("layers.png", figures.layer_ratios(about, ratios)),))
