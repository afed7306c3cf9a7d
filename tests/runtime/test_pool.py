"""A pool of actors: every item is done once, whichever actors die."""

import os
import time
from pathlib import Path

import pytest
import ray

from raypurify.errors import DataError, TrainingError
from raypurify.runtime.pool import LIVES, work_off


class Worker:
    """Notes its work in a folder; dies the first times that it is given what is deadly."""

    def __init__(self, folder: Path, deadly: dict[int, int], alive: bool = True):
        self.folder, self.deadly = folder, deadly
        if not alive:
            os._exit(1)

    def work(self, item: int) -> None:
        if item < 0:
            raise DataError(f"item {item} cannot be done")
        deaths = self.folder / f"deaths-{item}"
        died = len(deaths.read_text()) if deaths.exists() else 0
        if died < self.deadly.get(item, 0):
            deaths.write_text("x" * (died + 1))
            os._exit(1)
        with (self.folder / "log").open("a") as log:
            log.write(f"{item} ")


@pytest.fixture
def pool(local_ray, tmp_path):
    ray.cloudpickle.register_pickle_by_value(__import__(__name__))

    def run(items, size=2, deadly=None, cpus=1, alive=True):
        worker = ray.remote(num_cpus=cpus)(Worker)

        def start():
            return worker.remote(tmp_path, deadly or {}, alive)

        return list(work_off(items, "cluster", start, size, lambda actor, item: actor.work.remote(item)))

    yield run
    ray.cloudpickle.unregister_pickle_by_value(__import__(__name__))


def log(folder: Path) -> list[int]:
    return [int(item) for item in (folder / "log").read_text().split()]


def test_every_item_is_done_once_though_actors_die(pool, tmp_path):
    assert sorted(pool(range(12), deadly={3: 1, 4: LIVES - 1, 11: 1})) == list(range(12))
    assert sorted(log(tmp_path)) == list(range(12))


def test_nothing_waits_for_an_actor_that_finds_no_room(pool, tmp_path):
    # Four CPUs have room for one of the three, at first and after each death.
    begun = time.monotonic()
    assert pool(range(5), size=3, cpus=3, deadly={0: 1, 4: 1}) == list(range(5))
    assert time.monotonic() - begun < 60
    # What they held is free again.
    while ray.available_resources().get("CPU", 0) < 4:
        assert time.monotonic() - begun < 60
        time.sleep(0.05)


def test_an_item_that_kills_every_actor_ends_the_work_by_name(pool, tmp_path):
    with pytest.raises(TrainingError, match=f"{LIVES} actors died over cluster 2; if memory ran out"):
        pool(range(3), size=1, deadly={2: 99})
    assert log(tmp_path) == [0, 1]


def test_actors_that_die_at_once_end_the_work(pool):
    with pytest.raises(TrainingError, match=f"{LIVES} actors died before they did anything"):
        pool(range(3), size=1, alive=False)


def test_an_error_of_the_work_comes_as_it_is(pool):
    with pytest.raises(DataError) as error:
        pool([0, -1, 1])
    assert str(error.value) == "item -1 cannot be done"


def test_no_items_are_no_work(pool):
    assert pool([], size=1) == []
