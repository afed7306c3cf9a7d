"""Runs a grid on Ray: cells in actors, each once, then the tables and the report."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from raypurify.evaluation.cells import Cells, keys_of
from raypurify.evaluation.examples import example_pictures
from raypurify.evaluation.grid import Grid
from raypurify.evaluation.images import GridBatch, read_batches
from raypurify.evaluation.report import write_report
from raypurify.evaluation.sanity import Check, check_attacks
from raypurify.evaluation.subjects import (
    classifier_digest,
    make_attack,
    make_classifier,
    make_purifier,
    purifier_digest,
)
from raypurify.files import fingerprint, write_json
from raypurify.runtime.display import shown
from raypurify.runtime.pool import work_off
from raypurify.runtime.progress import Progress
from raypurify.runtime.resources import cluster_resources
from raypurify.runtime.session import ray_session

Names = tuple[str, str, str]
Digests = dict[str, dict[str, str]]
# What an actor does in one go: the cells of an attack on a batch, so that the attack is made once; or the checks.
Unit = tuple[str, str, int]
CHECKS = "checks"


def evaluate(grid: Grid, out: str | Path, *, address: str | None = None) -> Path:
    """Compute every cell of a grid that the folder ``out`` lacks, and write tables and report; returns the page's path.

    Raises ConfigError for names and settings that are not known before anything is computed, and what reading the
    images raises.
    """
    out = Path(out).expanduser().resolve()
    for name, spec in grid.attacks.items():
        make_attack(name, spec)
    for name, spec in grid.purifiers.items():
        # What it needs may not be installed: better said now than in an hour.
        purifier = make_purifier(name, spec)
        purifier.purify(torch.full((1, 3, *[max(16, purifier.min_size)] * 2), 0.5))
    digests = digests_of(grid)
    batches, classes = read_batches(grid.images, grid.batch)
    out.mkdir(parents=True, exist_ok=True)
    marks = [batch.digest for batch in batches]
    names = [(c, a, p) for c in grid.classifiers for a in grid.attacks for p in grid.purifiers]
    keys = {(cell, k): keys_of(grid, digests, cell, mark) for cell in names for k, mark in enumerate(marks)}
    todo: dict[Unit, list[Names]] = {}
    for (cell, k), key in keys.items():
        if not (out / "cells" / f"{key.cell}.parquet").exists():
            todo.setdefault((cell[0], cell[1], k), []).append(cell)
    checks = {c: out / CHECKS / f"{_check_key(grid, digests, c, marks)}.json" for c in grid.classifiers if grid.sanity}
    todo |= {(c, CHECKS, 0): [] for c, file in checks.items() if not file.exists()}
    if todo:
        _work(grid, digests, out, batches, todo, checks, len(keys) + len(checks), address)
    found = {c: [Check(**one) for one in json.loads(file.read_text("utf-8"))] for c, file in checks.items()}
    examples = example_pictures(grid, digests, out, batches[0], classes)
    files = {cell: [keys[cell, k].cell for k in range(len(batches))] for cell in names}
    return write_report(grid, out, files, classes, found, examples, digests)


def digests_of(grid: Grid) -> Digests:
    """What decides the results of each classifier and purifier of a grid."""
    return {
        "classifiers": {name: classifier_digest(spec) for name, spec in grid.classifiers.items()},
        "purifiers": {name: purifier_digest(spec) for name, spec in grid.purifiers.items()},
    }


def _check_key(grid: Grid, digests: Digests, classifier: str, marks: list[str]) -> str:
    return fingerprint(
        CHECKS, digests["classifiers"][classifier], [*digests["classifiers"].values()], grid.sanity, marks
    )


def _work(
    grid: Grid,
    digests: Digests,
    out: Path,
    batches: list[GridBatch],
    todo: dict[Unit, list[Names]],
    checks: dict[str, Path],
    total: int,
    address: str | None,
) -> None:
    with ray_session(address):
        import ray

        has = cluster_resources()
        size = has.gpus or min(len(todo), os.cpu_count() or 1, has.cpus)
        worker = ray.remote(num_cpus=1, num_gpus=1 if has.gpus else 0)(_Worker)
        specs, shared = ray.put((grid, digests, out)), [ray.put(batch) for batch in batches]
        some = ray.put(_first(batches, grid.sanity))

        def call(actor, unit: Unit):
            if unit[1] == CHECKS:
                return actor.check.remote(unit[0], some, checks[unit[0]])
            return actor.do.remote(todo[unit], shared[unit[2]])

        progress = Progress(out, total, "cells", start=total - sum(max(1, len(cells)) for cells in todo.values()))
        with shown(grid.name, lambda: progress.state):
            for unit in work_off(todo, "cell", lambda: worker.remote(specs, "cuda" if has.gpus else "cpu"), size, call):
                progress.add(max(1, len(todo[unit])), note=", ".join(unit[:2]))


def _first(batches: list[GridBatch], count: int) -> GridBatch:
    """The first so many images as one batch."""
    ids = sum((batch.ids for batch in batches), ())[:count]
    labels, pixels = (np.concatenate([getattr(b, n) for b in batches])[:count] for n in ("labels", "pixels"))
    return GridBatch(ids, labels, pixels)


class _Worker:
    """Computes cells, or the checks of a classifier, one call at a time."""

    def __init__(self, specs, device: str):
        torch.set_num_threads(1)
        self.grid, digests, self.out = specs
        self.cells, self.device = Cells(self.grid, digests, self.out, device), device

    def do(self, cells: list[Names], batch: GridBatch) -> None:
        for names in cells:
            self.cells.do(names, batch)

    def check(self, classifier: str, batch: GridBatch, file: Path) -> None:
        network = make_classifier(self.grid.classifiers[classifier], self.device)
        rest = [spec for name, spec in self.grid.classifiers.items() if name != classifier]
        other = make_classifier(rest[0], self.device) if rest else None
        images = torch.from_numpy(batch.pixels).to(self.device).float() / 255
        found = check_attacks(network, images, torch.from_numpy(batch.labels).to(self.device), other)
        write_json(file, [asdict(check) for check in found])
