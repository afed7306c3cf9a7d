"""Grids worked off in this process: what Ray does with the units is ``test_run.py``'s."""

import pytest

from raypurify.evaluation.batches import read_grid_batches
from raypurify.evaluation.cells import compute_cells
from raypurify.evaluation.checked import compute_checks
from raypurify.evaluation.grid import load_grid
from raypurify.evaluation.plan import CellUnit, make_plan
from raypurify.evaluation.report import write_report
from raypurify.evaluation.subjects import Subjects
from raypurify.storage import resolve


@pytest.fixture(scope="session")
def worked_here():
    """Works a grid's tree off into a folder, writes its report and returns its plan."""

    def work(tree, out):
        grid = load_grid(tree)
        batches, classes = read_grid_batches(grid.images, grid.batch)
        plan, subjects, checks = make_plan(grid, resolve(out), batches), Subjects(grid), {}
        for unit in plan.units():
            if isinstance(unit, CellUnit):
                compute_cells(plan, subjects, unit, batches[unit.batch])
            else:
                checks[unit.name] = compute_checks(subjects, unit.name, batches[0])
        write_report(plan, classes, checks, {})
        return plan

    return work
