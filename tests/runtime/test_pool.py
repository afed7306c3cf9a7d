"""A pool of actors: every item is done once, whichever actors die."""

import itertools
import os
import time
from contextlib import closing
from pathlib import Path

import pytest
import ray

from raypurify.errors import DataError, TrainingError
from raypurify.runtime.pool import LIVES, Pool, work_off

FROZEN = 77


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
        if item == FROZEN and not (self.folder / "thawed").exists():
            (self.folder / "thawed").touch()
            time.sleep(1000)
        with (self.folder / "log").open("a") as log:
            log.write(f"{item} ")

    def tell(self, item: int):
        for part in range(item):
            yield f"part {part}"
        self.work(item)
        yield "whole"


@pytest.fixture
def pool(local_ray, tmp_path):
    ray.cloudpickle.register_pickle_by_value(__import__(__name__))

    def run(items, size=2, deadly=None, cpus=1, alive=True):
        worker = ray.remote(num_cpus=cpus)(Worker)

        def start():
            return worker.remote(tmp_path, deadly or {}, alive if isinstance(alive, bool) else next(alive))

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


def test_actors_that_die_at_once_now_and_then_do_not(pool):
    # As often as would end it in a row, with one that works after each.
    lives = itertools.cycle([False, True])
    assert pool(range(LIVES), size=1, deadly=dict.fromkeys(range(LIVES), 1), alive=lives) == list(range(LIVES))


def test_an_error_of_the_work_comes_as_it_is(pool):
    with pytest.raises(DataError) as error:
        pool([0, -1, 1])
    assert str(error.value) == "item -1 cannot be done"


def test_no_items_are_no_work(pool):
    assert pool([], size=1) == []


def test_a_pool_tells_what_happens_and_gives_up_who_is_silent(pool, tmp_path):
    worker = ray.remote(num_cpus=1)(Worker)
    told = Pool(
        [2, FROZEN, -1],
        start=lambda: worker.remote(tmp_path, {2: 1}),
        call=lambda actor, item: actor.tell.options(
            num_returns="streaming", _generator_backpressure_num_objects=1
        ).remote(item),
        size=1,
        patience=2,
    )
    seen = []
    with closing(told.events()) as events:
        for event in events:
            if event.kind == "died":
                told.waiting.appendleft(event.item)
                assert isinstance(event.value, TimeoutError) == (event.item == FROZEN)
            if event.kind != "tick" and not (event.item == FROZEN and event.kind == "said"):
                seen.append((event.kind, event.item))
            if event.kind == "failed":
                assert isinstance(event.value.cause, DataError)
    said = ("said", 2)
    assert seen == [
        *(("ready", None), said, said, ("died", 2)),
        *(("ready", None), said, said, said, ("done", 2), ("died", FROZEN)),
        *(("ready", None), ("done", FROZEN), ("failed", -1)),
    ]
    assert log(tmp_path) == [2, FROZEN]


def test_a_pool_asks_for_more_than_there_is_room_for_while_work_waits(pool, tmp_path):
    worker, started = ray.remote(num_cpus=1)(Worker), []

    def start():
        started.append(worker.remote(tmp_path, {}))
        return started[-1]

    grows = Pool(range(30), start, lambda actor, item: actor.work.remote(item), size=2, most=30)
    with closing(grows.events()) as events:
        done = sorted(event.item for event in events if event.kind == "done")
    assert done == list(range(30))
    assert 4 < len(started) <= 30
