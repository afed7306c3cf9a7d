"""The lanes in which images wait, on a clock of their own: order, bounds, errors, callers that leave or are late."""

import asyncio
import selectors

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypurify.serve.lanes import Full, Lane, TooLate

PACE = 0.001


class _NoWait(selectors.SelectSelector):
    def __init__(self):
        super().__init__()
        self.now = 0.0

    def select(self, timeout=None):
        self.now += timeout or 0
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next thing to do."""

    def __init__(self):
        self.clock = _NoWait()
        super().__init__(self.clock)

    def time(self):
        return self.clock.now


def run(coroutine):
    loop = _Loop()
    try:
        return loop.run_until_complete(asyncio.wait_for(coroutine, 1e6))
    finally:
        loop.close()


class Worker:
    """Takes ``PACE`` seconds a pixel, and remembers when it began what."""

    def __init__(self, batch_pixels=16, room=1e9):
        self.begun = []
        self.lane = Lane(self, batch_pixels=batch_pixels, room=room, pace=PACE)
        self.pixels = {}

    async def __call__(self, items):
        left = [waiting for kind in self.lane._kinds.values() for waiting in kind]
        self.begun.append((asyncio.get_running_loop().time(), items, left))
        await asyncio.sleep(PACE * sum(self.pixels[item] for item in items))
        return [ValueError(item) if str(item).startswith("bad") else f"done {item}" for item in items]

    async def submit(self, item, pixels, seconds=None):
        self.pixels[item] = pixels
        return await self.lane.submit(item, pixels, pixels, seconds)

    def start(self, item, pixels, seconds=None):
        return asyncio.ensure_future(self.submit(item, pixels, seconds))


def test_what_arrives_while_the_worker_is_busy_goes_together():
    async def main():
        worker = Worker()
        first = worker.start("a", 4)
        await asyncio.sleep(0.001)
        rest = [worker.start(name, 4) for name in "bcdefg"]
        assert await asyncio.gather(first, *rest) == [f"done {name}" for name in "abcdefg"]
        assert [items for _, items, _ in worker.begun] == [["a"], list("bcde"), list("fg")]
        assert (worker.lane.waiting, worker.lane.backlog_s) == (0, 0)
        # A caller alone does not wait for company.
        begun = asyncio.get_running_loop().time()
        await worker.submit("h", 4)
        assert worker.begun[-1][0] == begun

    run(main())


def test_each_size_is_answered_when_it_is_done_small_ones_first():
    async def main():
        worker = Worker()
        running = worker.start("running", 10)
        await asyncio.sleep(0.001)
        sizes = {"large": 1000, "middle": 100, "small": 10}
        answers = {name: worker.start(name, pixels) for name, pixels in sizes.items()}
        await running
        await answers["small"]
        assert not answers["middle"].done()
        await answers["middle"]
        assert not answers["large"].done()
        assert await answers["large"] == "done large"

    run(main())


def test_a_large_image_never_starves():
    async def main():
        worker = Worker(batch_pixels=10)
        running = worker.start("running", 10)
        await asyncio.sleep(0.001)
        large, arrived = worker.start("large", 100), 0.001

        async def crowd():
            small = 0
            while not large.done():
                worker.start(f"small {small}", 10)
                small += 1
                await asyncio.sleep(10 * PACE)

        await asyncio.gather(running, large, crowd())
        (began,) = (at for at, items, _ in worker.begun if items == ["large"])
        # Its own 100 pixels' time, and the batch that runs then.
        assert began - arrived <= (100 + 10) * PACE + 1e-9

    run(main())


def test_there_is_room_for_so_many_pixels_and_for_one_image_of_any_size():
    async def main():
        worker = Worker(room=50)
        answers = [worker.start("running", 10)]
        await asyncio.sleep(0.001)
        answers.append(worker.start("larger than the room", 1000))
        await asyncio.sleep(0.001)
        with pytest.raises(Full) as refusal:
            await worker.submit("one more", 10)
        assert refusal.value.retry_after == pytest.approx(1.01)
        await asyncio.gather(*answers)
        assert await worker.submit("later", 10) == "done later"

    run(main())


def test_what_cannot_be_answered_in_time_is_refused_at_once_and_what_is_late_is_not_begun():
    async def main():
        worker, loop = Worker(), asyncio.get_running_loop()
        running = worker.start("running", 100)
        await asyncio.sleep(0.001)
        with pytest.raises(Full):
            await worker.submit("hopeless", 10, seconds=0.05)
        assert loop.time() == 0.001
        # The estimate may be wrong: an image that is let in and then too late never begins.
        worker.lane.pace /= 10
        with pytest.raises(TooLate):
            await worker.submit("late", 10, seconds=0.05)
        assert loop.time() == pytest.approx(0.051)
        assert worker.lane.waiting == 0
        await running
        assert [items for _, items, _ in worker.begun] == [["running"]]

    run(main())


def test_images_of_callers_that_left_are_not_begun_and_the_lane_goes_on():
    async def main():
        worker = Worker()
        running = worker.start("running", 100)
        await asyncio.sleep(0.001)
        gone = [worker.start(f"gone {n}", 4) for n in range(500)]
        await asyncio.sleep(0.001)
        for task in [*gone, running]:
            task.cancel()
        await asyncio.gather(running, *gone, return_exceptions=True)
        assert worker.lane.waiting == 0
        assert await asyncio.gather(*(worker.start(f"here {n}", 4) for n in range(100)))
        assert sum(len(items) for _, items, _ in worker.begun) == 101

    run(main())


def test_an_error_is_the_answer_of_its_own_image_or_of_the_batch_that_raised_it():
    async def main():
        worker = Worker()
        bad, good = worker.start("bad", 4), worker.start("good", 4)
        with pytest.raises(ValueError, match="bad"):
            await bad
        assert await good == "done good"

        async def broken(items):
            if items == ["short"]:
                return []
            raise OSError("broken")

        worker.lane.work = broken
        with pytest.raises(OSError, match="broken"):
            await worker.submit("x", 4)
        with pytest.raises(RuntimeError, match="0 results for 1 images"):
            await worker.submit("short", 4)
        worker.lane.work = worker
        assert await worker.submit("y", 4) == "done y"

    run(main())


_CALLER = st.tuples(
    st.floats(0, 0.5), st.sampled_from([1, 2, 4, 30, 100]), st.none() | st.floats(0.001, 0.5), st.booleans()
)


@settings(max_examples=150, deadline=None)
@given(st.lists(_CALLER, max_size=30))
def test_whoever_comes_and_goes(callers):
    """Each gets the own answer or a reason; batches keep their bounds; nothing overtakes what is due before it."""
    worker, limit = Worker(batch_pixels=8, room=200), 8

    async def call(number, arrives, pixels, leaves, bounded):
        await asyncio.sleep(arrives)
        asking = worker.submit(number, pixels, seconds=leaves if bounded else None)
        try:
            return await (asyncio.wait_for(asking, leaves) if leaves and not bounded else asking)
        except (Full, TooLate, asyncio.TimeoutError) as reason:
            return reason

    async def main():
        answers = await asyncio.gather(*(call(number, *caller) for number, caller in enumerate(callers)))
        await asyncio.sleep(1)  # what was begun for callers that have left
        return answers

    answers = run(main())
    for number, answer in enumerate(answers):
        assert isinstance(answer, Exception) or answer == f"done {number}"
    begun = [item for _, items, _ in worker.begun for item in items]
    assert len(set(begun)) == len(begun)
    assert not {n for n, answer in enumerate(answers) if isinstance(answer, Full)} & set(begun)
    for at, items, left in worker.begun:
        (pixels,) = {worker.pixels[item] for item in items}
        assert len(items) == 1 or len(items) * pixels <= limit
        due = callers[items[0]][0] + PACE * pixels
        assert all(due <= other.arrived + PACE * other.pixels + 1e-6 for other in left)
        assert at >= callers[items[0]][0] - 1e-9
    assert worker.lane.waiting == worker.lane.at_work == 0
    assert not worker.lane._kinds
