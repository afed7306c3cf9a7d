"""The networks of Table I and the grid that attacks them."""

from pathlib import Path

import numpy as np
import pytest

from raypurify.config import Settings, load_settings
from raypurify.evaluation.batches import GridBatch
from raypurify.evaluation.grid import load_grid
from raypurify.evaluation.papers import TABLES, recovered
from raypurify.evaluation.subjects import make_attack

PAPER = TABLES["rsfp-1"]


def test_the_trained_rows_are_the_papers_and_differ_in_what_their_names_say(benchmark):
    networks = benchmark("table1")
    assert set(networks.ROWS) - {"TRADES"} == set(PAPER.rows) - {"No defense"}
    settings = load_settings(path=networks.CONFIG)
    for name, (_, start, loss, pull) in networks.ROWS.items():
        row = networks.of_row(settings, loss, pull, start and Path("weights.safetensors"))
        Settings.model_validate(row.model_dump())
        assert (row.robust.alpha > 0) == ("RST" in name)
        assert (row.robust.loss == "trades") == (name == "TRADES")
        assert (row.robust.init == "random") == (start is None)
        assert (row.robust.epochs < settings.robust.epochs) == (start is not None)
        assert row.robust.attack == settings.robust.attack


def test_the_grid_has_the_papers_columns_within_one_budget(benchmark):
    networks = benchmark("table1")
    settings = load_settings(path=networks.CONFIG)
    paths = {name: Path(f"{k}.safetensors") for k, name in enumerate(["No defense", *networks.ROWS])}
    grid = load_grid(networks.table_grid(paths, Path("test.parquet"), 50, settings))
    assert tuple(grid.attacks) == PAPER.columns
    assert tuple(grid.classifiers) == ("No defense", *networks.ROWS)
    for name, spec in grid.attacks.items():
        attack = make_attack(name, spec)
        assert attack is None or (attack.norm, attack.eps) == ("l2", 0.3)


@pytest.mark.parametrize("table", TABLES.values())
def test_papers_tables_are_whole(table):
    assert all(len(row) == len(table.columns) for row in table.rows.values())
    assert table.undefended is None or table.undefended in table.rows
    assert recovered(90, 10, 50) == 0.5
    assert recovered(90, 90, 90) is None


@pytest.mark.parametrize(("count", "sizes"), [(3, [3]), (4, [4]), (6, [4, 2]), (8, [4, 4])])
def test_choices_are_of_as_many_images_as_asked(benchmark, count, sizes):
    bench = benchmark("choices")
    pixels = np.arange(4 * 3, dtype=np.uint8).reshape(4, 3, 1, 1)
    batches = [GridBatch(tuple(f"{b}{k}" for k in range(4)), np.full(4, b), pixels) for b in range(2)]
    some = bench.first_of(batches, count)
    assert [len(one.labels) for one in some] == [len(one.ids) for one in some] == sizes
    assert [len(one.pixels) for one in some] == sizes
    with pytest.raises(SystemExit, match="has 8 images: give --images 8 or less"):
        bench.first_of(batches, 9)
