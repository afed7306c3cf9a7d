"""Listing of object stores side by side: nothing is lost, whatever keys there are, and nothing in silence."""

import posixpath
import random
import threading

import pytest

from raypurify import stores
from raypurify.containers.source import open_source
from raypurify.errors import SourceError
from raypurify.storage import resolve


@pytest.fixture
def serve(benchmark, monkeypatch):
    """Starts stores that give a few keys at a time, and lets listing be side by side however little there is."""
    fake = benchmark("fake_store")
    monkeypatch.setattr(fake, "PAGE", 3)
    monkeypatch.setattr(stores, "_SPREAD", 3)
    monkeypatch.setattr(stores, "_SAMPLE", 2)
    monkeypatch.setattr(stores, "_PAGE", 20)
    running = []

    def start(keys, **options):
        store = fake.FakeStore(sorted(keys), **options)
        threading.Thread(target=store.serve_forever, args=(0.01,), daemon=True).start()
        running.append(store)
        return store

    yield start
    for store in running:
        store.shutdown()
        store.server_close()


def test_a_listing_holds_every_key_whatever_the_keys_are(serve):
    draw = random.Random(0)
    names = ["a", "b", "c.png", "a.b", "ü", "a b", "%41", "", ".", "x" * 60]
    ways = set()
    for turn in range(24):
        odd = names if turn % 3 == 0 else names[:7]
        keys = {"/".join(["in", *draw.choices(odd, k=draw.randint(0, 4)), "k"]) for _ in range(draw.randint(1, 90))}
        keys |= {f"in/{draw.choice(odd)}/{draw.choice(odd)}/{k}" for k in range(draw.randint(0, 60))}
        # Some are named as a folder of others is.
        keys |= {posixpath.dirname(key) for key in draw.sample(sorted(keys), len(keys) // 2)} - {"in"}
        store = serve({*keys, "in.png", "in2/a", "out/a"})
        place = resolve(store.uri("in"))
        found = [path for path, _ in place.walk()]
        files = [posixpath.relpath(key, "in") for key in keys]
        assert sorted(found) == sorted(files)
        flat = [path for path, _ in stores._files(place.remote, place.path)]
        assert sorted(posixpath.relpath(path, place.path) for path in flat) == sorted(files)
        ways.add(store.asked["LIST"] > 30)
    assert ways == {True, False}


def test_folders_of_many_keys_are_listed_side_by_side_and_others_are_not(serve):
    many = serve([f"in/{folder}/{k}" for folder in range(30) for k in range(30)], page_s=0.03)
    assert sum(1 for _ in resolve(many.uri("in")).walk()) == 900
    # Of 300 pages one after the other, and a few to find the folders.
    assert many.asked["LIST"] < 330
    few = serve([f"in/{folder}/1" for folder in range(300)])
    assert sum(1 for _ in resolve(few.uri("in")).walk()) == 300
    # The folders are found, two are tried, and all keys come one after the other.
    assert few.asked["LIST"] < 220


FAULTS = {
    "refused": lambda body: (403, b"<Error><Code>AccessDenied</Code></Error>"),
    "gone": lambda body: (404, b"<Error><Code>NoSuchBucket</Code></Error>"),
    "cut": lambda body: (200, body[: len(body) // 2]),
}


@pytest.mark.parametrize("what", FAULTS)
@pytest.mark.parametrize("where", ["in/", "in/7/", "in/7/3"])
def test_a_listing_that_is_not_whole_is_an_error_and_never_fewer_files(serve, what, where):
    def fault(query, body):
        page = query.get("continuation-token", query.get("prefix", ""))
        return FAULTS[what](body) if page.startswith(where) and b"<Key>" in body else (200, body)

    store = serve([f"in/{folder}/{k:02d}.png" for folder in range(10) for k in range(40)], fault=fault)
    with pytest.raises(SourceError, match=r"in: (cannot be listed|cannot be reached)"):
        open_source(store.uri("in"))
