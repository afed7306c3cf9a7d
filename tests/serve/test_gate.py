"""Who is let in at the ingress, and how many replicas are wanted: the parts without Ray."""

import contextlib
from types import SimpleNamespace

import pytest

from raypurify.serve.gate import Gate
from raypurify.serve.http import Refusal
from raypurify.serve.scaling import by_work


def refused(call, *args):
    with pytest.raises(Refusal) as refusal, call(*args) if callable(call) else call:
        pass
    assert refusal.value.status_code == 503
    assert int(refusal.value.headers["Retry-After"]) >= 1
    return refusal.value.detail["error"]


def test_images_are_counted_before_their_body_is_read_and_leave_whatever_happens():
    gate = Gate(max_images=2, max_bytes=10, max_batch_bytes=30, max_pixels=100)
    with gate.image() as first, gate.image() as second:
        assert refused(gate.reading) == refused(gate.image) == "busy"
        first(1000)  # one image of any size
        with pytest.raises(Refusal):
            second(1)
        assert gate.inside == 2
    with contextlib.suppress(ZeroDivisionError), gate.reading() as hold, gate.image() as unpack:
        hold(7)
        unpack(1 // (gate.bytes - 7))
    assert (gate.inside, gate.bytes, gate.pixels) == (0, 0, 0)


def test_bodies_together_are_bounded_and_slow_ones_hold_only_what_has_come():
    gate = Gate(max_images=100, max_bytes=10, max_batch_bytes=30, max_pixels=100)
    with gate.reading() as slow:
        slow(1)
        with gate.reading() as large:
            large(159)
            with pytest.raises(Refusal):
                large(1)
            with gate.reading() as small, pytest.raises(Refusal):
                small(1)
        with gate.reading() as small:
            small(1)


def test_a_gate_that_ends_answers_those_inside_only():
    gate = Gate(max_images=2, max_bytes=10, max_batch_bytes=30, max_pixels=100)
    with gate.image():
        gate.end()
        assert refused(gate.reading) == "ending"
        assert gate.inside == 1
    assert gate.inside == 0


@pytest.mark.parametrize(
    ("busy", "work_s", "requests", "wanted"),
    [
        ([], [], 0, 0),
        ([], [], 1, 1),
        ([0.0, 0.0], [0.0, 0.0], 0, 0),
        ([0.8], [0.05], 3, 1),
        ([1.0], [0.5], 8, 2),
        ([1.0], [20.0], 8, 7),
        ([1.0, 1.0, 1.0], [200.0, 0.5, 0.5], 40, 8),
        ([0.5, 0.4, 0.4], [0.1, 0.1, 0.1], 3, 2),
    ],
)
def test_replicas_follow_the_work_at_hand(busy, work_s, requests, wanted):
    context = SimpleNamespace(
        aggregated_metrics={"busy": dict(enumerate(busy)), "work_s": dict(enumerate(work_s))} if busy else {},
        total_num_requests=requests,
        capacity_adjusted_min_replicas=0,
        capacity_adjusted_max_replicas=8,
    )
    assert by_work(context) == (wanted, {})
