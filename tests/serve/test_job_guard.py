"""Where jobs may read and write and what may be asked of them, and what each caller may have: all without Ray."""

import inspect
import json
import runpy

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypurify.containers.registry import KINDS
from raypurify.errors import ConfigError
from raypurify.serve.auth import hash_token
from raypurify.serve.http import Refusal
from raypurify.serve.jobs.links import bound_output, check_inputs, check_output
from raypurify.serve.jobs.refused import Refused
from raypurify.serve.jobs.registry import Record, Registry, job_id
from raypurify.serve.jobs.request import JobRequest, arguments, parse_request, request_schema
from raypurify.serve.jobs.roots import admit, check_root
from raypurify.serve.limits import Bucket, Callers
from raypurify.serve.settings import parse_settings
from raypurify.storage import resolve

STORE = "s3://bucket/jobs?endpoint_override=store:9000&scheme=http"


@pytest.fixture
def place(tmp_path):
    """A root with links in and out of it, beside a folder that is none of a job's business."""
    (tmp_path / "root" / "in").mkdir(parents=True)
    (tmp_path / "root-too").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "x.png").write_bytes(b"x")
    (tmp_path / "root" / "out-link").symlink_to(tmp_path / "secret")
    (tmp_path / "root" / "in-link").symlink_to(tmp_path / "root" / "in")
    (tmp_path / "root" / "loop").symlink_to(tmp_path / "root" / "loop")
    return tmp_path


@pytest.mark.parametrize(
    "path",
    [
        "/etc",
        "/etc/passwd",
        "/",
        "{}",
        "{}/secret",
        "{}/root-too/x",
        "{}/root/out-link",
        "{}/root/out-link/x.png",
        "{}/root/../secret",
        "{}/root/in/../../secret",
        "{}/root/./in",
        "{}/root/..",
        "{}/root/*",
        "{}/root/*/x.png",
        "{}/root/**",
        "{}/root/{{.,x}}./secret",
        "{}/root/[i]n",
        "{}/root/in?",
        "{}/root/in\x00.png",
        "{}/root/in\n",
        " {}/root/in",
        "{}/root/_raypurify",
        "{}/root/in/_raypurify/tmp",
        "{}/root/.raypurify-jobs",
        "{}/root/.RayPurify-Jobs/x",
        "root/in",
        "./in",
        "~/in",
        "",
        "/" + "x" * 4000,
        "file://{}/root/in",
        "FILE://{}/root/in",
        "file://{}/root/%2e%2e/secret",
        "http://169.254.169.254/latest/meta-data",
        "http://[fd00:ec2::254]/latest",
        "s3://other/jobs/in",
        "s3://bucket",
        "s3://bucket/",
        "s3://bucket/job",
        "s3://bucket/jobs-too/in",
        "S3://bucket/jobs/in",
        "gs://bucket/jobs/in",
        "s3://key:secret@bucket/jobs/in",
        "s3://bucket@evil/jobs/in",
        "s3://bucket/jobs@evil/in",
        "s3://bucket/jobs/x:y@evil/in",
        "s3://bucket/jobs/../in",
        "s3://bucket/jobs/a/../../in",
        "s3://bucket/jobs/./in",
        "s3://bucket/jobs//in",
        "s3://bucket/jobs/%2e%2e/in",
        "s3://bucket/jobs/%252e%252e/in",
        "s3://bucket/jobs/..%2fin",
        "s3://bucket/jobs/..\\in",
        "s3://bucket/jobs/in?endpoint_override=169.254.169.254",
        "s3://bucket/jobs/in#x",
        "s3://bucket/jobs/in&x=1?",
        "s3://bucket/jobs/*.tar",
        "s3://bucket/jobs/x::http://169.254.169.254/",
        "s3://bucket/jobs/http://169.254.169.254/",
        "simplecache::s3://bucket/jobs/in",
        "zip://x.png::s3://bucket/jobs/in",
        "s3://bucket/jobs/_raypurify/x",
        "s3://bucket/jobs/.raypurify-jobs/x",
    ],
)
def test_no_way_leads_out_of_the_roots(place, path):
    roots = [check_root(str(place / "root")), check_root(STORE)]
    path = path.format(place)
    for output in (False, True):
        with pytest.raises(Refused) as refused:
            admit(path, roots, output=output)
        assert refused.value.status in (403, 422)
    with pytest.raises(Refused):
        admit("/etc/x", [])


def test_what_lies_below_a_root_is_taken_as_it_is(place):
    root = str(place / "root")
    roots = [root, STORE, f"{root}/in"]
    assert admit(f"{root}/in/a b/ü%20.png", roots).uri == f"{root}/in/a b/ü%20.png"
    assert admit(f"{root}//in-link/", roots).uri == f"{root}/in-link"
    assert admit(root, roots).parts == ()
    # An output has one name, and the deepest root is the one that records it.
    assert admit(f"{root}/in-link/new", roots, output=True)[:2] == (f"{root}/in/new", f"{root}/in")
    there = admit("s3://bucket/jobs/in/50 a", roots)
    assert there == ("s3://bucket/jobs/in/50 a?endpoint_override=store:9000&scheme=http", STORE, ("in", "50 a"))
    long = "é" * 127
    assert admit(f"{root}/{long}x", roots, output=True).parts == (f"{long}x",)
    with pytest.raises(Refused, match="255 bytes") as refused:
        admit(f"{root}/a/{long}é/b", roots, output=True)
    assert refused.value.status == 422
    for itself in (root, f"{root}/", "s3://bucket/jobs", "s3://bucket/jobs/"):
        admit(itself, roots)
        with pytest.raises(Refused, match="a job root itself"):
            admit(itself, [root, STORE], output=True)


@given(st.text("./%*a_:@?#\\ s3\x00", max_size=24), st.booleans())
def test_whatever_is_admitted_lies_below_its_root(text, store):
    roots = ["/nowhere/root", "s3://bucket/jobs"]
    try:
        found = admit((roots[store] if len(text) % 2 else "") + text, roots)
    except Refused:
        return
    assert (found.uri + "/").startswith(found.root + "/")
    assert not {"", ".", ".."} & set(found.uri.removeprefix(found.root).split("/")[1:])
    assert found.root.startswith("/") or not set("?#%@\\") & set(found.uri)


def test_links_below_an_input_do_not_lead_out(place):
    root, folder = str(place / "root"), place / "root" / "in"
    # Links to folders are passed over by every job.
    check_inputs([root, STORE, f"{root}/missing"], [root, STORE])
    (folder / "deep").mkdir()
    (folder / "good.png").symlink_to(folder / "deep")
    (folder / "deep" / "a.parquet").symlink_to(place / "secret" / "x.png")
    for path in (root, str(folder / "deep" / "a.parquet")):
        with pytest.raises(ConfigError, match=r"a\.parquet: a link that leads out"):
            check_inputs([path], [root, STORE])
    check_inputs([root], [root, str(place / "secret")])


def test_no_link_at_all_stands_in_an_output(place):
    root, out = str(place / "root"), place / "root" / "out"
    check_output("s3://bucket/jobs/out", [root, STORE])
    check_output(str(out), [root])
    (out / "sub" / "deep").mkdir(parents=True)
    check_output(str(out), [root])
    file, within, without = out / "sub" / "x.png", place / "root" / "in", place / "secret"
    file.touch()
    for link, target in [
        (out / "_raypurify", without),
        (out / "_raypurify", within),
        (out / "sub" / "deep" / "more", without),
        (out / "y.png", file),
        (out / "z.png", place / "nothing"),
    ]:
        link.symlink_to(target)
        with pytest.raises(ConfigError, match=f"{link.name}: a link in the output"):
            check_output(str(out), [root])
        link.unlink()
    check_output(str(out), [root])
    out.rename(place / "root" / "other")
    out.symlink_to(place / "root" / "other")
    with pytest.raises(ConfigError, match="a link has come into this path"):
        check_output(str(out), [root])
    out.unlink()
    out.symlink_to(without)
    with pytest.raises(Refused, match="none of the job roots"):
        check_output(str(out), [root])


def test_no_link_that_comes_later_leads_an_output_or_a_record_elsewhere(place, monkeypatch):
    monkeypatch.setattr("raypurify.storage._BOUNDS", [])
    root, secret = str(place / "root"), place / "secret"
    bound_output("s3://bucket/jobs/out", [root, STORE])
    bound_output(f"{root}/out", [root, STORE])
    out = resolve(f"{root}/out")
    (out / "sub/x.png").write(b"x", out / "tmp")
    (place / "root" / "out" / "sub").rename(place / "root" / "out" / "moved")
    (place / "root" / "out" / "sub").symlink_to(secret)
    (place / "root" / ".raypurify-jobs").symlink_to(secret)
    request = JobRequest(input=[f"{root}/in"], output=f"{root}/out")
    for write in (
        lambda: (out / "sub/x.png").write(b"y", out / "tmp"),
        lambda: Registry([root]).write(Record(id=job_id(f"{root}/out"), owner="me", request=request, created=0)),
    ):
        with pytest.raises(OSError, match="a link has come into its path"):
            write()
    assert [(path.name, path.read_bytes()) for path in secret.iterdir()] == [("x.png", b"x")]


@pytest.mark.parametrize(
    "root",
    [
        "",
        " ",
        "/",
        "//",
        "/..",
        "s3://",
        "s3:///",
        "s3://bucket/../x",
        "s3://bucket/a//b",
        "s3://bucket/a%2e",
        "a*",
        "file:///x",
    ]
    + ["s3://key:secret@bucket/jobs", "s3://bucket/jobs?secret_key=x", "s3://bucket/x::y"],
)
def test_roots_that_bound_nothing_or_hold_secrets_are_refused(root):
    with pytest.raises(ConfigError, match="job root") as refused:
        parse_settings({"no_auth": True, "job_roots": root})
    assert "secret_key" not in str(refused.value)
    assert "key:secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({}, "input"),
        ({"input": [], "output": "/o"}, "input"),
        ({"input": ["/i"] * 101, "output": "/o"}, "input"),
        ({"input": [["/i"]], "output": "/o"}, "input.0"),
        ({"input": "/i", "output": ["/o"]}, "output"),
        ({"input": "/i", "output": "/o", "bundle": "s3://evil/bundle"}, "bundle"),
        *(
            ({"input": "/i", "output": "/o", "options": {name: value}}, f"options.{name}")
            for name, value in [
                ("address", "ray://evil:1"),
                ("bundle", "/evil"),
                ("follow_links", True),
                ("shard", "1/2"),
                ("actor_cpus", 1000),
                ("--engine", "x"),
                ("format", "exe"),
                ("format", "png --overwrite"),
                ("sheet", 65),
                ("sheet", True),
                ("sheet", "8"),
                ("limit", 0),
                ("limit", 1e30),
                ("max_pixels", 1 << 25),
                ("max_pixels", None),
                ("overwrite", "yes"),
                ("image_column", ""),
                ("image_column", "a\0b"),
                ("image_member", "a\nb"),
                ("image_column", "x" * 201),
                ("image_column", ["a"]),
                ("kind", "dicom"),
                ("engine", "local"),
            ]
        ),
    ],
)
def test_only_known_options_within_their_bounds_are_taken(body, where):
    with pytest.raises(Refused) as refused:
        parse_request(json.dumps(body).encode())
    assert (refused.value.status, refused.value.error) == (422, "bad-request")
    assert str(refused.value).startswith(where)
    for broken in (b"", b"[]", b"\xff", b"{", b'"x"', b"[" * 50_000):
        with pytest.raises(Refused):
            parse_request(broken)


def test_kinds_are_those_that_are_registered(monkeypatch):
    monkeypatch.setitem(KINDS, "zarr", KINDS["arrays"])
    options = runpy.run_path(inspect.getfile(JobRequest))["JobOptions"]
    assert [options(kind=kind).kind for kind in KINDS] == [*KINDS]


def test_the_schema_of_a_request_stands_for_itself():
    schema = request_schema()
    assert "$ref" not in json.dumps(schema)
    for good in ({"input": "/i", "output": "/o"}, {"input": ["/i"], "output": "/o", "options": {"sheet": 64}}):
        jsonschema.validate(good, schema)
        parse_request(json.dumps(good).encode())
    for bad in ({"input": [], "output": "/o"}, {"input": "/i", "output": "/o", "options": {"follow_links": True}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)


def test_values_never_become_flags():
    request = parse_request(b'{"input": "/i", "output": "/o", "options": {"image_column": "--overwrite", "sheet": 0}}')
    words = arguments(request, bundle="b", address="a:1", overwrite=False)
    assert words[0] == "purify"
    assert words[-3:] == ["--", "/i", "/o"]
    assert "--image-column=--overwrite" in words
    assert "--overwrite" not in words
    assert "--overwrite" in arguments(request, bundle="b", address="a:1", overwrite=True)

    import typer

    from raypurify.cli.app import app

    every = JobRequest(input=["/i"], output="/o").options.model_dump()
    context = typer.main.get_command(app).commands["purify"].make_context("purify", words[1:])
    assert context.params["image_column"] == "--overwrite"
    assert {name: context.params[name] for name in every if name != "image_column"} == {
        name: 0 if name == "sheet" else value for name, value in every.items() if name != "image_column"
    }


def test_a_record_that_somebody_else_wrote_reaches_no_further(place):
    root = str(place / "root")
    registry = Registry([root])

    def record(input, output, **more):
        request = JobRequest(input=[input], output=output)
        return Record(id=job_id(output), owner="me", request=request, created=0, **more)

    good = record(f"{root}/in", f"{root}/out")
    registry.write(good)
    folder = place / "root" / ".raypurify-jobs"
    for n, text in enumerate(
        [
            record("/etc", f"{root}/a").model_dump_json(),
            record(f"{root}/in", "/etc/x").model_dump_json(),
            record(f"{root}/in", f"{root}/b").model_copy(update={"id": job_id(f"{root}/out")}).model_dump_json(),
            good.model_dump_json().replace('"png"', '"png","address":"evil:1"'),
            "{}",
            "[" * 100_000,
            "\x00",
        ]
    ):
        name = json.loads(text)["id"] if '"id"' in text else f"x{n}"
        if name != good.id:
            (folder / f"{name}.json").write_text(text)
    (folder / "folder.json").mkdir()
    assert registry.load() == {good.id: good}
    registry.remove(good)
    assert registry.load() == {}


def test_a_bucket_gives_what_was_agreed_and_never_more():
    now = [0.0]
    bucket = Bucket(4, 2, clock=lambda: now[0])
    taken = 0
    for step in range(400):
        now[0] = step * 0.05
        taken += bucket.take(1) == 0
    assert taken == pytest.approx(4 * 20 + 2, abs=1)
    # A batch of more than the burst is let in by a full bucket, and paid for before the next.
    now[0] = 100
    assert bucket.take(10) == 0
    assert bucket.take(1) == pytest.approx(9 / 4)


def test_every_token_has_its_own_limits():
    mine, theirs = hash_token("mine"), hash_token("theirs")
    settings = parse_settings(
        {
            "token_sha256": [mine, theirs],
            "max_bytes": 1000,
            "limits": {
                "default": {"images_per_s": 1, "burst": 1},
                theirs: {"max_bytes": 10, "max_pixels": 5, "jobs": 1},
            },
        }
    )
    callers = Callers(settings)
    assert (callers.of(mine).max_bytes, callers.of(theirs).max_bytes, callers.of(theirs).max_pixels) == (1000, 10, 5)
    assert callers.of(mine).owner != callers.of(theirs).owner
    assert mine[:16] not in callers.of(mine).owner
    callers.of(mine).charge()
    for _ in range(20):
        callers.of(theirs).charge()
    with pytest.raises(Refusal) as refused:
        callers.of(mine).charge()
    assert (refused.value.status_code, refused.value.detail["error"]) == (429, "too-fast")
    assert refused.value.headers == {"Retry-After": "1"}
    with pytest.raises(ConfigError, match="limits of"):
        parse_settings({"token_sha256": mine, "limits": {hash_token("unknown"): {}}})
    with pytest.raises(ConfigError, match="images_per_s"):
        parse_settings({"no_auth": True, "limits": {"default": {"images_per_s": 0}}})
