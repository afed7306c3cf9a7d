"""Runs a grid on Ray: cells and checks in actors, each once, then the tables and the report."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from raypurify.errors import ConfigError
from raypurify.evaluation.activations import activation_sections
from raypurify.evaluation.batches import GridBatch, first_images, read_grid_batches
from raypurify.evaluation.cells import compute_cells
from raypurify.evaluation.checked import compute_checks
from raypurify.evaluation.contract import check_classifier, check_purified
from raypurify.evaluation.examples import example_pictures
from raypurify.evaluation.grid import Grid
from raypurify.evaluation.own import install, is_own
from raypurify.evaluation.plan import CellUnit, CheckUnit, GridPlan, GridUnit, load_own, make_plan, read_checks
from raypurify.evaluation.report import write_report
from raypurify.evaluation.subjects import Subjects
from raypurify.files import write_json
from raypurify.methods import opened
from raypurify.purifiers.draws import check_draws
from raypurify.runtime.allocator import keep_freed_memory
from raypurify.runtime.observed import observed
from raypurify.runtime.pool import work_off
from raypurify.runtime.progress import Progress
from raypurify.runtime.resources import cluster_resources
from raypurify.runtime.session import ray_session
from raypurify.runtime.stages import open_run
from raypurify.storage import Place, Where


def evaluate(grid: Grid, out: Where, *, address: str | None = None) -> Place:
    """Compute every cell of a grid that ``out``, a folder or URI, lacks, and write tables and report; returns the page.

    Raises ConfigError for names and settings that are not known before anything is computed, SinkError where another
    evaluation works in ``out`` or it cannot be written, and what reading the images raises.
    """
    subjects = Subjects(grid)
    if not grid.attacks:
        raise ConfigError("the grid has no attacks; name one, e.g. --set 'attacks.clean={attack: clean}'")
    load_own(grid)
    _check_pairs(grid)
    _check_subjects(subjects)
    # Of two at once on one folder the report would be of either.
    with open_run(out) as run:
        batches, classes = read_grid_batches(grid.images, grid.batch)
        _check_classifiers(subjects, batches)
        _check_names(grid, classes)
        plan = make_plan(grid, run, batches)
        if units := plan.units():
            _work(plan, batches, units, address)
        checks = {name: read_checks(plan.checks(name)) for name in plan.check_keys}
        examples = example_pictures(plan, subjects, batches[0], classes)
        seen = activation_sections(plan, subjects, batches[0], classes)
        return write_report(plan, classes, checks, examples, seen)  # type: ignore[arg-type]  # no check is left undone


def _check_pairs(grid: Grid) -> None:
    """Raise ConfigError where a bundle whose images are for one classifier alone stands before another, unless that was
    retrained, which may have been behind it."""
    for name, spec in grid.purifiers.items():
        if not spec.bundle:
            continue
        method, bundle = opened(spec.bundle)
        whom = method.for_whom(bundle.manifest)
        for classifier, other in grid.classifiers.items() if whom else ():
            own = other.kind == "bundle" and opened(other.path)[1].digest == bundle.digest
            if name in grid.rows(classifier) and not (own or other.retrained):
                raise ConfigError(
                    f"purifier {name!r}: what its bundle makes of images is for {whom} alone, and classifier "
                    f"{classifier!r} is another: give that one its purifiers in behind"
                )


def _check_subjects(subjects: Subjects) -> None:
    for name in subjects.grid.attacks:
        subjects.attack(name)
    for name in subjects.grid.purifiers:
        # What it needs may not be installed: better said now than in an hour.
        purifier = subjects.purifier(name)
        images = torch.full((1, 3, *[max(16, purifier.min_size)] * 2), 0.5)
        if is_own(subjects.grid.purifiers[name].purifier):
            check_purified(name, purifier, images)
        else:
            purifier.purify(images)
        if subjects.ensemble(name) > 1:
            check_draws(f"purifier {name!r}", purifier)


def _check_classifiers(subjects: Subjects, batches: Sequence[GridBatch]) -> None:
    """Of every kind: no loader has seen the images and their labels."""
    images = torch.from_numpy(batches[0].pixels[:2]).float() / 255
    labels = torch.from_numpy(np.concatenate([batch.labels for batch in batches]))
    for name in subjects.grid.classifiers:
        check_classifier(name, subjects.classifier(name), images, labels)


def _check_names(grid: Grid, classes: Sequence[str]) -> None:
    """Raise ConfigError where the images have a class of a bundle under another number: classes that have names alone
    are numbered in the order of these, as many as there are."""
    for classifier, spec in grid.classifiers.items():
        if spec.kind != "bundle" or spec.outputs:
            continue
        known = {name: number for number, name in enumerate(opened(spec.path)[1].manifest.classes)}
        for number, name in enumerate(classes):
            if known.get(name, number) != number:
                raise ConfigError(
                    f"class {name!r} is number {number} of the images and number {known[name]} of classifier "
                    f"{classifier!r}: give images of all its classes, or numbers in the column label"
                )


def _work(plan: GridPlan, batches: Sequence[GridBatch], units: Sequence[GridUnit], address: str | None) -> None:
    with ray_session(address):
        import ray

        has = cluster_resources()
        worker = ray.remote(num_cpus=1, num_gpus=1 if has.gpus else 0)(_Worker)
        shared, stored = ray.put(plan), [ray.put(batch) for batch in batches]
        some = ray.put(first_images(batches, plan.grid.sanity))

        def call(actor: Any, unit: GridUnit) -> Any:
            if isinstance(unit, CheckUnit):
                return actor.check.remote(unit, some)
            return actor.compute.remote(unit, stored[unit.batch])

        def start() -> Any:
            return worker.remote(shared, "cuda" if has.gpus else "cpu")

        # One after the other: a check takes as long as many cells, and would make nonsense of the time that is left.
        kinds = (CellUnit, "evaluate", "cell", plan.cells), (CheckUnit, "check", "check", len(plan.check_keys))
        for kind, stage, noun, total in kinds:
            if not (todo := [unit for unit in units if isinstance(unit, kind)]):
                continue
            size = min(len(todo), has.gpus or max(1, has.cores))
            progress = Progress(plan.out, total, f"{noun}s", start=total - sum(unit.size for unit in todo))
            with observed(str(plan.out), stage, lambda state=progress.state: state, plan.grid.name):  # type: ignore[misc]
                for unit in work_off(todo, noun, start, size, call):
                    progress.add(unit.size, note=unit.note)


class _Worker:
    """Works off units, one call at a time."""

    def __init__(self, plan: GridPlan, device: str):
        torch.set_num_threads(1)
        keep_freed_memory()
        install(plan.own)
        self.plan, self.subjects = plan, Subjects(plan.grid, device)

    def compute(self, unit: CellUnit, batch: GridBatch) -> None:
        compute_cells(self.plan, self.subjects, unit, batch)

    def check(self, unit: CheckUnit, batch: GridBatch) -> None:
        found = compute_checks(self.subjects, unit.name, batch)
        write_json(self.plan.checks(unit.name), [asdict(check) for check in found])
