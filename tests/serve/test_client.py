"""The client of bulk jobs where replicas die, with a stand-in for the handle: real deaths take minutes."""

from collections import Counter

import numpy as np
import pytest
from ray.exceptions import RayActorError

from raypurify.errors import BundleError, ImageError, RaypurifyError
from raypurify.serve import client
from raypurify.serve.lanes import Full

SIDE = 256  # four such images are one call
BUNDLE = "0" * 64


class Endpoint:
    """Replicas that die over images, named by their first pixel, where ``deaths`` says so of a group."""

    def __init__(self, deaths):
        self.deaths, self.asked, self.under_way = deaths, [], 0
        self.purify_all, self.busy = self, 3

    def remote(self, images, pixels):
        (group,) = images
        names = tuple(int(image[0, 0, 0]) for image in group)
        assert pixels == len(group) * SIDE * SIDE
        self.under_way += 1
        return Response(self, names)


class Response:
    def __init__(self, endpoint, names):
        self.endpoint, self.names = endpoint, names

    def result(self):
        one = self.endpoint
        one.asked.append((self.names, one.under_way))
        one.under_way -= 1
        if one.busy:
            one.busy -= 1
            return Full(0.0)
        if one.deaths(self.names, Counter(names for names, _ in one.asked)[self.names]):
            raise RayActorError
        return [(name, {"together": self.names, "bundle": BUNDLE}) for name in self.names]


@pytest.fixture
def ask(monkeypatch):
    def ask(deaths, digest=BUNDLE):
        endpoint, heard = Endpoint(deaths), []
        monkeypatch.setattr(client, "_handle", lambda: endpoint)
        monkeypatch.setattr("ray.put", lambda value: value)
        monkeypatch.setattr(client, "_PAUSE_S", 0.0)
        images = [np.full((SIDE, SIDE, 3), name, np.uint8) for name in range(24)]
        try:
            return endpoint, client.purify_there(images, lambda: heard.append(0), digest)
        finally:
            assert len(heard) >= len(endpoint.asked) - 1  # but for the death that was one too many

    return ask


def together(results):
    return {result[1]["together"] for result in results if not isinstance(result, ImageError)}


ALL = {tuple(range(first, first + 4)) for first in range(0, 24, 4)}


def test_images_that_kill_replicas_are_errors_and_all_others_are_done(ask):
    endpoint, results = ask(lambda names, time: bool({5, 16, 17, 18, 19} & set(names)))
    assert [i for i, result in enumerate(results) if isinstance(result, ImageError)] == [5, 16, 17, 18, 19]
    assert {results[i].reason for i in (5, 16, 17, 18, 19)} == {"kills"}
    assert all(result[0] == i for i, result in enumerate(results) if not isinstance(result, ImageError))
    assert together(results) == ALL - {(4, 5, 6, 7), (16, 17, 18, 19)} | {(4, 6, 7)}
    assert {under_way for names, under_way in endpoint.asked if len(names) == 1} == {1}
    assert sum(names == (5,) for names, _ in endpoint.asked) == 2


def test_replicas_that_are_taken_away_change_nothing(ask):
    _, results = ask(lambda names, time: time <= (1 if len(names) == 1 else 4))
    assert [result[0] for result in results] == list(range(24))
    assert together(results) == ALL


def test_deaths_without_an_image_to_blame_end_a_shard(ask):
    with pytest.raises(RaypurifyError, match="died 4 times over images together, and no image of them alone"):
        ask(lambda names, time: len(names) > 1 and 9 in names)


def test_answers_by_another_bundle_end_a_shard(ask):
    with pytest.raises(BundleError, match="was given another bundle during this job, 0000"):
        ask(lambda names, time: False, digest="1" * 64)
