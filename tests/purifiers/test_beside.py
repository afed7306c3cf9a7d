"""Threads that decode and encode beside a purifier: the same results, bounded, and really meanwhile."""

import threading
import time

import numpy as np
import pytest
from bad_images import broken_images, encode, pixels

from raypurify.errors import ImageError
from raypurify.images import decode_image
from raypurify.purifiers import batch, beside
from raypurify.purifiers.batch import purify_files, size_groups
from raypurify.purifiers.beside import Coders

SIDES = (8, 16, 8, 8, 24, 16, 8)
AWAITED_S = 20.0


def inverted(images):
    return [(255 - image, {"cluster": 0}) for image in images]


def files(count: int) -> list[tuple[int, bytes]]:
    return [(k, encode(pixels(SIDES[k % len(SIDES)], 8, seed=k))) for k in range(count)]


@pytest.fixture
def few_at_a_time(monkeypatch):
    """Five images of 8² together, and some thirty in a window."""
    monkeypatch.setattr(batch, "BATCH_PIXELS", 5 * 64)
    monkeypatch.setattr(batch, "WINDOW_PIXELS", 50 * 64)


@pytest.mark.parametrize("coders", [1, 3])
def test_results_and_batches_are_those_of_one_after_the_other(few_at_a_time, coders):
    given = files(90)
    broken = [data for data, _ in broken_images().values()][:4]
    for place, data in zip((0, 17, 60, 89), broken):
        given[place] = (place, data)
    found = {}
    for threads in (0, coders):
        batches: set[tuple] = set()

        def purify(images, batches=batches):
            for group in size_groups(images, batch.BATCH_PIXELS):
                batches.add(tuple(images[k].tobytes() for k in group))
            return inverted(images)

        results = list(purify_files(purify, given, coders=threads))
        assert len(results) == len(given)
        made = {key: (result if isinstance(result, bytes) else result.reason, facts) for key, result, facts in results}
        found[threads] = made, batches
    assert found[0] == found[coders]
    assert sum(isinstance(result, str) for result, _ in found[0][0].values()) == 4


def test_the_next_is_decoded_and_the_last_encoded_while_a_batch_is_purified(few_at_a_time, monkeypatch):
    read, written = threading.Semaphore(0), threading.Semaphore(0)

    def counted(function, semaphore):
        def call(*args, **settings):
            result = function(*args, **settings)
            semaphore.release()
            return result

        return call

    monkeypatch.setattr(batch, "decode_image", counted(batch.decode_image, read))
    monkeypatch.setattr(batch, "encode_image", counted(batch.encode_image, written))
    given = [(k, encode(pixels(8, 8, seed=k))) for k in range(20)]
    calls = []

    def purify(images):
        calls.append(len(images))
        # As many as are in later batches are decoded before this one ends, and those before it encoded.
        for _ in range(20 if len(calls) == 1 else 0):
            assert read.acquire(timeout=AWAITED_S)
        for _ in range(5 if len(calls) > 1 else 0):
            assert written.acquire(timeout=AWAITED_S)
        return inverted(images)

    assert len(list(purify_files(purify, given, coders=1))) == 20
    assert calls == [5, 5, 5, 5]


def test_no_more_is_decoded_ahead_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(beside, "PIXELS_AHEAD", 10 * 64)
    begun = []

    def decode(data):
        begun.append(data)
        return decode_image(data)

    with Coders(2, decode, None) as coders:
        images = coders.decoded([(k, encode(pixels(8, 8, seed=k))) for k in range(60)], lambda: None)
        for taken in range(1, 61):
            key, image = next(images)
            assert (key, image.pixels.shape) == (taken - 1, (8, 8, 3))
            until = time.monotonic() + AWAITED_S
            while len(begun) < min(60, taken + 10):
                assert time.monotonic() < until
                time.sleep(0.001)
            # What each thread had begun when there was room for one.
            assert len(begun) <= taken + 10 + 2


def test_images_wait_to_be_encoded_only_so_far(monkeypatch):
    monkeypatch.setattr(beside, "PIXELS_BEHIND", 3 * 64)
    image = decode_image(encode(pixels(8, 8)))
    begun, seen, free = [], [], threading.Event()

    def encode_late(pixels, like):
        assert free.wait(AWAITED_S)
        # Long enough for others to be made, if anyone asked for them.
        time.sleep(0.0 if seen else 0.2)
        seen.append(len(begun))
        return b"file"

    def results():
        for k in range(10):
            begun.append(k)
            if len(begun) == 4:
                free.set()
            yield k, (image.pixels, image, {})

    with Coders(1, None, encode_late) as coders:
        assert [result for _, result, _ in coders.encoded(results())] == [b"file"] * 10
    assert seen[0] == 4


def test_an_image_that_cannot_be_written_is_one_error_and_others_come(few_at_a_time):
    given = [(0, encode(pixels())), (1, encode(np.dstack([pixels(), pixels()[..., 0]]))), (2, encode(pixels(seed=2)))]
    found = {key: result for key, result, _ in purify_files(inverted, given, "jpeg", coders=2)}
    assert isinstance(found[1], ImageError)
    assert found[1].reason == "unsupported-mode"
    assert found[0][:2] == found[2][:2] == b"\xff\xd8"


def test_what_goes_wrong_otherwise_is_raised_and_threads_end(few_at_a_time):
    def purify(images):
        raise ZeroDivisionError

    def waits():
        raise KeyboardInterrupt

    for stop, settings in ((ZeroDivisionError, {}), (KeyboardInterrupt, {"waits": waits})):
        with pytest.raises(stop):
            list(purify_files(purify, files(30), coders=2, **settings))
    until = time.monotonic() + AWAITED_S
    while any(thread.name == "coder" for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.01)
