"""Errors that stand for wrong input are those that a Python user catches, too, and say the same on every way."""

import ast
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from import_graph import modules_below

import raypurify
from raypurify import errors
from raypurify.config import load_settings
from raypurify.containers.sink import check_claimable, status
from raypurify.containers.source import open_source
from raypurify.csc import tikhonov_split
from raypurify.images import decode_image
from raypurify.nets.archives import unpacked
from raypurify.training.data import read_set

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
    for call, kind in (
        (lambda: check_claimable(tmp_path, overwrite=False), errors.SinkError),
        (lambda: open_source(str(tmp_path / "x{1..9999999}.tar")), errors.SourceError),
        (lambda: read_set([tmp_path / "images.npz"], 8), errors.DataError),
        (lambda: status(tmp_path), errors.SinkError),
    ):
        with pytest.raises(kind) as caught:
            call()
        assert caught.value.__cause__ is None, caught.value
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


def passes(handler: ast.ExceptHandler) -> bool:
    return len(handler.body) == 1 and isinstance(handler.body[0], ast.Raise) and handler.body[0].exc is None


def test_blocks_of_others_keep_their_errors():
    """A context manager that catches an OSError or a ValueError of its block may meet any of ours there."""
    found, wrong = 0, []
    for name, path in modules_below(PACKAGE).items():
        for function in ast.walk(ast.parse(path.read_text("utf-8"))):
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
