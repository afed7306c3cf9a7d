"""One contract for places on the local disk and in an object store, and what a store in trouble does."""

import contextlib
import io
import pickle
import socket
import subprocess
import sys
import tarfile
import threading
import time
import traceback
import uuid
from urllib.parse import quote

import object_store
import pytest
from bad_images import encode, pixels

from raypurify.containers.lease import held
from raypurify.containers.sink import open_sink, recorded_job, reopen_failed, status
from raypurify.containers.source import open_source, read_shard
from raypurify.errors import SinkError, SourceError
from raypurify.storage import Place, bounded, overlapped, redact, resolve, within, write_through_no_link

ODD_NAMES = ["a b", "50%", "%41", "a+b", "ü/日本.png", "a&b=c", "a?b#c", "'a'", "[1]*", "~a", "a@b:c", "two\nlines"]
FAST = 20


@pytest.fixture(params=["disk", "store"])
def place(request, tmp_path) -> Place:
    """A folder that is not there yet."""
    if request.param == "disk":
        return resolve(tmp_path / "place")
    return resolve(request.getfixturevalue("store").uri(f"places/{uuid.uuid4().hex}"))


@pytest.fixture
def write(place):
    """Writes files, by default each with its own name in it."""

    def put(*names: str, data: bytes | None = None) -> None:
        for name in names:
            (place / name).write(name.encode() if data is None else data, place / "scratch")
        (place / "scratch").delete_folder()

    return put


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 50_000], ids=["nothing", "a byte", "12 MB"])
def test_a_file_is_read_as_it_was_written(place, write, data):
    write("a/b/c.bin", data=data)
    file = place / "a/b/c.bin"
    assert file.read() == data
    assert (file.kind, file.stamp[0], file.name) == ("file", len(data), "c.bin")
    assert [(name, stamp[0]) for name, stamp in place.walk()] == [("a/b/c.bin", len(data))]


def test_a_file_is_overwritten_by_shorter_and_longer_ones(place, write):
    for data in (b"three", b"", b"four and more"):
        write("a", data=data)
        assert (place / "a").read() == data
    assert place.names() == ["a"]


def test_a_reader_sees_one_version_or_the_other(place, write):
    versions = [letter * 300_000 for letter in (b"a", b"b")]
    write("a", data=versions[0])
    ended = threading.Event()

    def overwrite():
        for turn in range(30):
            (place / "a").write(versions[turn % 2], place / "scratch")
        ended.set()

    writer = threading.Thread(target=overwrite)
    writer.start()
    while not ended.is_set():
        assert (place / "a").read() in versions
    writer.join()


def test_a_reader_may_ask_for_less_and_for_more_than_there_is(place, write):
    write("a", data=b"0123456789")
    assert [(place / "a").read(limit) for limit in (0, 4, 10, 11, 1 << 28)] == [b"", b"0123", *[b"0123456789"] * 3]
    with (place / "a").open() as file:
        assert (file.read(2), file.seek(7) or file.tell(), file.read(9), file.read(1)) == (b"01", 7, b"789", b"")


def test_nothing_is_no_error_but_to_read(place):
    assert (place.kind, place.names()) == (None, [])
    (place / "a").delete()
    place.delete_folder()
    with pytest.raises(FileNotFoundError):
        (place / "a").read()


def test_names_and_walk_tell_folders_from_files(place, write):
    write("b/2", "b/deep/3", "a", "b.c")
    assert place.names() == ["a", "b", "b.c"]
    assert sorted(name for name, _ in place.walk()) == ["a", "b.c", "b/2", "b/deep/3"]
    assert [(place / name).kind for name in ("a", "b", "b/deep", "c")] == ["file", "folder", "folder", None]
    assert (place / "a").names() == []


def test_delete_takes_one_file_and_no_folder(place, write):
    write("a", "b/1", "b/2")
    (place / "b/1").delete()
    (place / "b").delete()
    (place / "a").delete()
    assert sorted(name for name, _ in place.walk()) == ["b/2"]


def test_delete_folder_takes_what_is_below_and_no_neighbour(place, write):
    write("cat/1", "cat/deep/2", "cat.png", "cat2/3", "dog/cat/4")
    (place / "cat").delete_folder()
    (place / "cat.png").delete_folder()
    assert sorted(name for name, _ in place.walk()) == ["cat.png", "cat2/3", "dog/cat/4"]


def test_a_folder_may_be_made_twice_and_written_in(place):
    for _ in range(2):
        (place / "a/b").make_folder()
    assert (place / "a/b").names() == []
    (place / "a/b/c").write(b"c", place / "scratch")
    assert (place / "a/b/c").read() == b"c"


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_is_kept(place, write, name):
    write(name, "a/plain")
    assert (place / name).read() == name.encode()
    assert sorted(found for found, _ in place.walk()) == sorted([name, "a/plain"])
    assert place.names() == sorted([name.partition("/")[0], "a"])
    (place / name).delete()
    assert [found for found, _ in place.walk()] == ["a/plain"]


def test_a_place_travels_to_another_process(place, write):
    write("a", data=b"x")
    sent = pickle.loads(pickle.dumps(place))
    assert (sent, str(sent), (sent / "a").read()) == (place, str(place), b"x")


def test_many_at_once_are_read_in_order(place, write):
    write(*map(str, range(40)))
    assert [*overlapped(lambda k: (place / str(k)).read(), range(40))] == [str(k).encode() for k in range(40)]


@object_store.small_puts
def test_an_object_is_written_by_one_request(store):
    place = resolve(store.uri("requests"))
    place.names()
    before = counted(store)
    for name in ("a", "new/folder/b"):
        (place / name).write(b"x", place / "scratch")
    assert counted(store) - before == {"PUT": 2}


def test_a_killed_upload_leaves_nothing_to_see(store):
    uri = store.uri("killed/a")
    code = (
        "import sys, time\nfrom raypurify.storage import resolve\nplace = resolve(sys.argv[1])\n"
        "file = place.remote.open_output_stream(place.path)\nfile.write(bytes(25 << 20))\nfile.flush()\n"
        "print('sent', flush=True)\ntime.sleep(60)\n"
    )
    before = {name for name, _ in resolve(store.uri()).walk()}
    sender = subprocess.Popen([sys.executable, "-c", code, uri], stdout=subprocess.PIPE, text=True)
    assert sender.stdout.readline() == "sent\n"
    sender.kill()
    sender.wait()
    assert resolve(uri).kind is None
    assert {name for name, _ in resolve(store.uri()).walk()} == before


def test_a_tar_is_read_by_few_requests(store):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in (f"{k:03d}{suffix}" for k in range(100) for suffix in (".cls", ".png", ".txt")):
            member = tarfile.TarInfo(name)
            member.size = 3
            tar.addfile(member, io.BytesIO(b"123"))
    store.put("tars/a.tar", out.getvalue())
    before = counted(store)
    source = open_source(store.uri("tars/a.tar"))
    assert [row.data for shard in source.shards for row in read_shard(shard)] == [b"123"] * 100
    assert (counted(store) - before).total() < 15


def counted(store):
    """The store's requests, when it has counted the last of them."""
    found = store.requests()
    while (now := time.sleep(0.3) or store.requests()) != found:
        found = now
    return found


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_uri_may_name_it_escaped(store, name):
    store.put(f"escaped/{name}", name.encode())
    assert resolve(store.uri(f"escaped/{name}")).read() == name.encode()


@pytest.mark.parametrize("name", ["a b", "50%", "a+b", "ü/日本.png", "a&b=c", "'a'", "[1]*", "a@b:c", "a#b"])
def test_a_uri_may_name_it_as_people_write_it(store, name):
    store.put(f"plain/{name}", name.encode())
    uri = store.uri("plain/NAME").replace("NAME", name)
    assert resolve(uri).read() == name.encode()
    assert redact(uri) == uri


def test_a_key_may_be_given_in_the_uri_escaped_or_not(store, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    store.put("keys/a", b"a")
    for secret in (object_store.OTHER_SECRET, quote(object_store.OTHER_SECRET, safe="")):
        uri = store.uri("keys/a", user=f"{object_store.OTHER_KEY}:{secret}")
        assert resolve(uri).read() == b"a"
        assert redact(uri) == store.uri("keys/a")
        assert str(resolve(uri)) == f"s3://{object_store.BUCKET}/keys/a"


def test_another_key_or_region_is_still_the_same_store(store):
    inner, outer = store.uri("a/b"), store.uri("a")
    for one in (inner, inner + "&region=eu-west-1", store.uri("a/b", user="other:key")):
        assert within(resolve(one), resolve(outer))
        assert not within(resolve(outer), resolve(one))
    elsewhere = outer.replace("127.0.0.1", "127.0.0.2")
    assert not within(resolve(inner), resolve(elsewhere))
    assert not within(resolve(inner), Place(resolve(outer).path))


@pytest.fixture
def source(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(encode(pixels()))
    return open_source(tmp_path / "in")


def refusals(uri: str, source) -> list[str]:
    """What each way to use an input or output says of this URI, which holds ``hush`` where it holds a secret."""

    ways = [
        (SourceError, open_source),
        (SinkError, lambda uri: open_sink(uri, source, settings={})),
        *((SinkError, way) for way in (status, recorded_job, reopen_failed)),
    ]
    said = []
    for kind, way in ways:
        begun = time.monotonic()
        with pytest.raises(kind) as raised:
            way(uri)
        assert time.monotonic() - begun < FAST
        assert "hush" not in "".join(traceback.format_exception(raised.value))
        said.append(str(raised.value))
    return said


@pytest.mark.parametrize("where", ["uri", "environment"])
def test_a_wrong_key_is_named_and_not_shown(store, source, monkeypatch, where):
    user = f"{object_store.KEY}:hush-wrong" if where == "uri" else ""
    if where == "environment":
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-wrong")
    for text in refusals(store.uri("some/folder", user), source):
        assert f"s3://{object_store.BUCKET}/some/folder" in text
        assert "ACCESS_DENIED" in text or "SIGNATURE_DOES_NOT_MATCH" in text


def test_a_missing_bucket_is_named(store, source):
    for text in refusals(store.uri("folder", bucket="nowhere"), source):
        assert "s3://nowhere/folder" in text
        assert "no such file or folder" in text or "NO_SUCH_BUCKET" in text or "holds no _raypurify/job.json" in text


@pytest.mark.parametrize(
    ("uri", "trouble"),
    [
        ("s3://key:hush@bucket/x?endpoint_override=h&nonsense=hush", "Unexpected query parameter in S3"),
        ("s3://key:hu sh hush@bucket/x?endpoint_override=h", "Cannot parse URI: 's3://bucket/x?endpoint_override=h'"),
        ("s3://key:hush@bucket/x?endpoint_override=h&scheme=no", "Invalid S3 connection scheme 'no'"),
        ("nonsense://key:hush@bucket/x", "Protocol not known: nonsense"),
    ],
)
def test_a_uri_that_cannot_be_read_is_named_and_not_shown(source, uri, trouble):
    for text in refusals(uri, source):
        assert "://bucket/x" in text
        assert trouble in text


def test_a_store_that_is_down_is_named_soon(source):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{taken.getsockname()[1]}"
        uri = f"s3://key:hush@bucket/x?endpoint_override={endpoint}&scheme=http"
        texts = refusals(uri, source)
        with pytest.raises(SinkError, match=r"s3://bucket/x: cannot be written.*curl"), held(resolve(uri)):
            pass
    for text in texts:
        assert "s3://bucket/x" in text
        assert "NETWORK_CONNECTION" in text
        assert endpoint in text


@pytest.mark.slow
def test_a_store_that_never_answers_a_connection_is_named_soon():
    with contextlib.ExitStack() as stack:
        silent = stack.enter_context(socket.socket())
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(silent.getsockname())
        uri = f"s3://key:hush@bucket/x?endpoint_override=127.0.0.1:{silent.getsockname()[1]}&scheme=http"
        begun = time.monotonic()
        with pytest.raises(SourceError, match=r"s3://bucket/x.*NETWORK_CONNECTION"):
            open_source(uri)
        assert time.monotonic() - begun < FAST


@pytest.mark.slow
def test_a_store_of_googles_that_is_down_is_named_soon():
    begun = time.monotonic()
    with pytest.raises(SourceError, match=r"gs://bucket/x.*UNAVAILABLE"):
        open_source("gs://anonymous@bucket/x?endpoint_override=127.0.0.1:1&scheme=http")
    # It is asked for 10 s, and once more after a pause of up to 16 s.
    assert time.monotonic() - begun < 10 + 16 + 4


def test_a_slow_store_is_waited_for(store):
    store.put("slow/a", b"a")
    with delayed(store.endpoint, 4.0) as endpoint:
        assert resolve(store.uri("slow/a").replace(store.endpoint, endpoint)).kind == "file"


@contextlib.contextmanager
def delayed(endpoint: str, seconds: float):
    """An endpoint that passes every request on to another, and its answer back some seconds later."""
    host, _, port = endpoint.partition(":")

    def serve(client: socket.socket) -> None:
        with client, socket.create_connection((host, int(port))) as server:
            # Requests are signed for the host they are sent to.
            server.sendall(client.recv(1 << 16))
            answer = server.recv(1 << 16)
            time.sleep(seconds)
            client.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as door:

        def listen() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(door.accept()[0],), daemon=True).start()

        threading.Thread(target=listen, daemon=True).start()
        yield f"127.0.0.1:{door.getsockname()[1]}"


def test_below_a_bound_nothing_is_written_or_deleted_through_a_link(tmp_path):
    """Not even through one that comes while a file is being written."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "kept").write_bytes(b"kept")
    root.mkdir()
    (tmp_path / "named").symlink_to(root)
    # The bound itself may be reached by one.
    out = pickle.loads(pickle.dumps(bounded(resolve(tmp_path / "named"), str(tmp_path / "named")) / "out"))
    scratch = out / "scratch"
    (out / "a/b/c").write(b"1", scratch)
    (out / "a/b/c").write(b"2", scratch)
    assert (root / "out/a/b/c").read_bytes() == b"2"

    (root / "out/link").symlink_to(outside)
    for act in (
        lambda: (out / "link/new").write(b"x", scratch),
        lambda: (out / "link/deep/new").write(b"x", scratch),
        lambda: (out / "new").write(b"x", out / "link"),
        lambda: (out / "link/kept").delete(),
        lambda: (out / "link").delete_folder(),
        lambda: (out / "link/deep").delete_folder(),
    ):
        with pytest.raises(OSError, match="a link has come into its path, 'link'"):
            act()
    # A link in the place of a file is replaced, and removed, itself.
    (root / "out/file").symlink_to(outside / "kept")
    (out / "file").write(b"new", scratch)
    assert (root / "out/file").read_bytes() == b"new"
    for way in ("../../outside/kept", "a/../../../outside/kept"):
        with pytest.raises(OSError):
            (out / way).write(b"x", scratch)
        with pytest.raises(OSError):
            (out / way).delete()

    def exchanged():
        with (out / "a/b/d").writing(scratch) as file:
            file.write(b"x")
            (root / "out/a/b").rename(root / "out/a/moved")
            (root / "out/a/b").symlink_to(outside)

    with pytest.raises(OSError, match="a link"):
        exchanged()
    assert not [*(root / "out/scratch").iterdir()]
    with (out / "a/moved/d").writing(scratch) as file:
        file.write(b"x")
        (root / "out/scratch").rename(root / "out/moved")
        (root / "out/scratch").symlink_to(outside)
    assert (root / "out/a/moved/d").read_bytes() == b"x"
    (out / "a").delete_folder()
    assert not (root / "out/a").exists()
    assert sorted(path.name for path in outside.rglob("*")) == ["deep", "kept"]
    assert (outside / "kept").read_bytes() == b"kept"


def test_what_is_resolved_below_a_bound_of_the_process_is_bound(tmp_path, monkeypatch):
    monkeypatch.setattr("raypurify.storage._BOUNDS", [])
    write_through_no_link(str(tmp_path / "root"))
    assert resolve(tmp_path / "root/out").bound == str(tmp_path / "root")
    assert not resolve(tmp_path / "rootless/out").bound
