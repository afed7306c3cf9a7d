"""Errors that stand for wrong input are those that a Python user catches, too, and say the same on every way."""

import ast
import os
import pickle
import re
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from import_graph import modules_below

import raypurify
from raypurify import errors
from raypurify.config import load_settings
from raypurify.containers.sink import check_claimable, status
from raypurify.containers.source import open_source, read_shard
from raypurify.csc import tikhonov_split
from raypurify.images import decode_image
from raypurify.nets.archives import MOST_UNPACKED, unpacked
from raypurify.training.data import read_set

FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
RNG = np.random.default_rng(0)
PACKAGE = Path(raypurify.__file__).parent
ALSO = {
    "ConfigError": ValueError,
    "DataError": ValueError,
    "ImageError": ValueError,
    "SourceError": OSError,
    "SinkError": OSError,
    "BundleError": OSError,
    "TrainingError": Exception,
}


@pytest.mark.parametrize("name", [name for name in vars(errors) if name.endswith("Error") and name in ALSO])
def test_an_error_is_ours_and_what_others_catch(name):
    kind = getattr(errors, name)
    error = kind("too-large", "a text; do this") if name == "ImageError" else kind("a text; do this")
    assert isinstance(error, errors.RaypurifyError)
    assert isinstance(error, ALSO[name])
    # Ray sends them between processes.
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (kind, "a text; do this", vars(error))


def test_every_error_has_its_place():
    kinds = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.RaypurifyError)]
    assert {kind.__name__ for kind in kinds} == {*ALSO, "RaypurifyError"}


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda: raypurify.load("/no/bundle"), OSError, "no bundle at"),
        (lambda: open_source("/no/images"), OSError, "/no/images: no such file"),
        (lambda: status("/no/output"), OSError, "/no/output"),
        (lambda: load_settings(preset="huge"), ValueError, "unknown preset 'huge'"),
        (lambda: tikhonov_split(torch.zeros(3)), ValueError, r"expected \(N, C, H, W\)"),
        (lambda: decode_image(b"no image"), ValueError, "image"),
    ],
    ids=["bundle", "input", "output", "settings", "arrays", "image"],
)
def test_a_user_who_catches_what_python_has_is_told_the_same(call, kind, says):
    with pytest.raises(kind, match=says) as caught:
        call()
    assert isinstance(caught.value, errors.RaypurifyError)


def test_what_is_said_already_is_not_said_again(tmp_path):
    """Who turns an OSError or a ValueError of others into one of ours lets ours pass."""
    (tmp_path / "other").write_text("")
    np.savez(tmp_path / "images.npz", images=np.zeros((2, 3, 4, 4), np.uint8), labels=np.zeros(2))
    zipped(tmp_path / "large.pt", bytes(MOST_UNPACKED // 2 + 1), bytes)
    np.savez_compressed(tmp_path / "x.npz", x=RNG.integers(0, 256, (9, 4, 4, 3), np.uint8))
    (shard,) = open_source(tmp_path / "x.npz").shards
    whole = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(whole[:200] + bytes(50) + whole[250:])
    os.utime(tmp_path / "x.npz", ns=(shard.cut.stamp[1],) * 2)
    for call, kind in (
        (lambda: check_claimable(tmp_path, overwrite=False), errors.SinkError),
        (lambda: open_source(str(tmp_path / "x{1..9999999}.tar")), errors.SourceError),
        (lambda: read_set([tmp_path / "images.npz"], 8), errors.DataError),
        (lambda: status(tmp_path), errors.SinkError),
        (lambda: unpacked(tmp_path / "large.pt"), errors.SourceError),
    ):
        with pytest.raises(kind) as caught:
            call()
        assert caught.value.__cause__ is None, caught.value
        assert "cannot be" not in str(caught.value)
    with pytest.raises(errors.SourceError, match=r"x\.npz: is cut short or damaged: ") as caught:
        [*read_shard(shard)]
    assert "cannot be" not in str(caught.value)


def zipped(path, data, damage):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("images.npy", "é.npy"):
            archive.writestr(name, data)
    path.write_bytes(damage(path.read_bytes()))
    return path


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole.replace("é".encode(), b"\xff\xff"),
        lambda whole: whole[:40] + b"\xff" * 3 + whole[43:],
        lambda whole: whole[:-9],
    ],
    ids=["name", "member", "directory"],
)
def test_a_damaged_zip_is_an_error_of_ours_whoever_reads_it(tmp_path, damage):
    with pytest.raises(errors.SourceError, match=r"a\.pt: not a file of torch"):
        unpacked(zipped(tmp_path / "a.pt", b"x" * 99, damage))
    with pytest.raises(errors.SourceError, match=r"cannot read images from .*a\.npz"):
        read_set([zipped(tmp_path / "a.npz", b"x" * 99, damage)], 8)


@cache
def parsed() -> dict[str, ast.Module]:
    return {name: ast.parse(path.read_text("utf-8")) for name, path in modules_below(PACKAGE).items()}


def passes(handler: ast.ExceptHandler) -> bool:
    return len(handler.body) == 1 and isinstance(handler.body[0], ast.Raise) and handler.body[0].exc is None


def test_blocks_of_others_keep_their_errors():
    """A context manager that catches an OSError or a ValueError of its block may meet any of ours there."""
    found, wrong = 0, []
    for name, tree in parsed().items():
        for function in ast.walk(tree):
            if not (
                isinstance(function, ast.FunctionDef)
                and any(getattr(one, "id", "") == "contextmanager" for one in function.decorator_list)
            ):
                continue
            for node in ast.walk(function):
                if not isinstance(node, ast.Try) or not any(
                    isinstance(one, ast.Yield) for part in node.body for one in ast.walk(part)
                ):
                    continue
                for k, handler in enumerate(node.handlers):
                    caught = ast.unparse(handler.type) if handler.type else ""
                    if any(word in caught for word in ("OSError", "ValueError", "_UNREACHED")):
                        found += 1
                        # That one raises again what has no number of the operating system, as ours.
                        if function.name != "_naming" and not any(passes(one) for one in node.handlers[:k]):
                            wrong.append(f"{name}.{function.name}: except {caught}")
    assert found >= 4
    assert not wrong


def raised(node: ast.AST) -> set[str]:
    """Our errors that a piece of code raises itself, by their names."""
    calls = (one.exc for one in ast.walk(node) if isinstance(one, ast.Raise) and isinstance(one.exc, ast.Call))
    return {name for call in calls if (name := getattr(call.func, "id", "")) in ALSO}


def known_in(tree: ast.Module, name: str) -> dict[str, tuple[str, str]]:
    """What names of a module stand for, as (module, name in it)."""
    found = {one.name: (name, one.name) for one in tree.body if isinstance(one, FUNCTION)}
    for one in ast.walk(tree):
        if isinstance(one, ast.ImportFrom) and one.module:
            found |= {alias.asname or alias.name: (one.module, alias.name) for alias in one.names}
    return found


def called(node: ast.AST, known: dict[str, tuple[str, str]]) -> set[tuple[str, str]]:
    """The functions of modules, not the methods, that a piece of code calls."""
    found = set()
    for function in (one.func for one in ast.walk(node) if isinstance(one, ast.Call)):
        if isinstance(function, ast.Name) and function.id in known:
            found.add(known[function.id])
        elif isinstance(function, ast.Attribute) and (of := known.get(getattr(function.value, "id", ""))):
            found.add((".".join(of), function.attr))
    return found


def test_who_says_what_failed_lets_our_errors_pass():
    """A block that calls what raises ours, and turns errors of others into ours, may meet ours there."""
    trees = parsed()
    known = {name: known_in(tree, name) for name, tree in trees.items()}
    functions = {known[name][one.name]: one for name in trees for one in trees[name].body if isinstance(one, FUNCTION)}
    calls = {of: called(one, known[of[0]]) & functions.keys() for of, one in functions.items()}
    may, before = {of: raised(one) for of, one in functions.items()}, None
    while may != before:
        before = may
        may = {of: may[of].union(*(may[one] for one in calls[of])) for of in may}
    blocks, wrong = 0, []
    tries = [(name, one) for name, tree in trees.items() for one in ast.walk(tree) if isinstance(one, ast.Try)]
    for name, node in tries:
        body = ast.Module(node.body, [])
        ours = raised(body).union(*(may.get(one, set()) for one in called(body, known[name])))
        for handler in node.handlers:
            caught = ast.unparse(handler.type) if handler.type else "Exception"
            if passes(handler):
                ours -= {*ALSO} if "RaypurifyError" in caught else {*re.findall(r"\w+", caught)}
            elif raised(handler):
                # Of the tuples that have a name.
                caught = caught.replace("_UNREACHED", "OSError, ValueError").replace("DAMAGED_ZIP", "ValueError")
                met = {one for one in ours if re.search(rf"\b({ALSO[one].__name__}|Exception)\b", caught)}
                blocks += 1
                wrong += [f"{name}:{handler.lineno}: except {caught} takes {one} for another's" for one in met]
    assert blocks > 30
    assert not wrong, "\n".join(wrong)
