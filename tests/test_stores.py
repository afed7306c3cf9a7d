"""Listing of object stores side by side: nothing is lost, whatever keys there are, and nothing in silence."""

import posixpath
import random
import threading
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

import raypurify
from raypurify import stores
from raypurify.containers.sink import check_claimable, open_sink, status
from raypurify.containers.source import open_source
from raypurify.errors import RaypurifyError, SourceError
from raypurify.runtime.stages import resolved_run
from raypurify.storage import resolve

EXAMPLES = Path(raypurify.__file__).parent / "examples"


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


@pytest.mark.parametrize("uri", ["", "file://", "s3://", "s3:///in", "s3://?region=eu", "s3://key:secret@", "hf://"])
def test_what_a_variable_that_is_not_set_leaves_names_no_place(uri, monkeypatch, tmp_path):
    """Above all not the current folder."""
    monkeypatch.chdir(tmp_path)
    source = open_source(EXAMPLES)
    asked = [
        lambda: open_source(uri),
        lambda: check_claimable(uri, overwrite=True),
        lambda: open_sink(uri, source, settings={}, overwrite=True),
        lambda: status(uri),
        lambda: raypurify.load(uri),
        lambda: resolved_run(uri),
    ]
    for ask in asked:
        with pytest.raises(RaypurifyError, match=r"path is empty|[Nn]o bucket|Missing bucket") as raised:
            ask()
        assert "secret" not in str(raised.value)
    assert not [*tmp_path.iterdir()]


def test_a_store_that_pyarrow_asks_fsspec_for_is_one_of_fsspec():
    pytest.importorskip("huggingface_hub")
    place = resolve("hf://datasets/of/some")
    assert (type(place.remote.handler), str(place)) == (stores._Whole, "hf://datasets/of/some")


def test_a_place_that_is_named_by_its_whole_uri_shows_it_once():
    pytest.importorskip("aiohttp")
    assert str(resolve("http://127.0.0.1:1/a") / "b") == "http://127.0.0.1:1/a/b"


class Unreachable(MemoryFileSystem):
    """A store that does not answer, once one of its methods is replaced."""

    protocol = "unreachable"
    cachable = False


class NoAnswer(Exception):
    """An error that is none of the operating system's, as of httpx."""


@pytest.mark.parametrize("faulty", ["__init__", "info", "ls", "find", "open", "rm", "mkdir", "read", "write"])
def test_whatever_a_store_of_fsspec_raises_is_an_error_of_the_system(faulty, monkeypatch):
    fsspec.register_implementation("unreachable", Unreachable, clobber=True)
    place = resolve("unreachable://in/folder")
    for name in ("a", "gone"):
        (place / name).write(b"data")

    def fail(*args, **options):
        raise NoAnswer("after 5 s")

    monkeypatch.setattr(MemoryFile if faulty in ("read", "write") else Unreachable, faulty, fail)
    said = []
    for ask in (
        lambda: resolve("unreachable://in"),
        lambda: (place / "a").kind,
        lambda: (place / "a").read(),
        lambda: place.names(),
        lambda: [*place.walk()],
        lambda: (place / "b").write(b"data"),
        lambda: (place / "new/b").write(b"data"),
        lambda: (place / "gone").delete(),
        lambda: place.delete_folder(),
    ):
        try:
            ask()
        except OSError as error:
            said.append(str(error))
    assert {*said} == {"NoAnswer: after 5 s"}
