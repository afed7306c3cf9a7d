"""What later stages read of earlier ones: a file that is damaged is named, with the folder to delete."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from raypurify.errors import SourceError
from raypurify.fit import dictionaries, patches, strata
from raypurify.fit.learner import dictionary_path
from raypurify.storage import resolve

# By what reads it: the file in the stage's folder, and how.
READ: dict[str, tuple[Callable, Callable]] = {
    "strata": (lambda folder: folder / strata.FOUND, lambda folder: strata.load_strata(folder, 15)),
    "a dictionary": (
        lambda folder: dictionary_path(folder, "3"),
        lambda folder: dictionaries.load_dictionaries(folder, ["3", "3"]),
    ),
    "patches": (lambda folder: folder / patches.FOUND, patches.load_dictionary),
}
WHOLE = save({"atoms": torch.rand(2, 3, 4, 4)})
DAMAGED = {
    "empty": b"",
    "cut": WHOLE[:-9],
    "no safetensors": b"PK\3\4" * 20,
    "of another stage": save({"x": torch.zeros(1)}),
}


@pytest.mark.parametrize("kind", DAMAGED)
@pytest.mark.parametrize("name", READ)
def test_a_damaged_file_of_a_stage_is_named_with_the_remedy(name, kind, tmp_path):
    place, read = READ[name]
    folder = resolve(tmp_path)
    file = place(folder)
    file.write(DAMAGED[kind])
    with pytest.raises(SourceError) as error:
        read(folder)
    assert str(error.value).startswith(f"{file}: cannot be read: ")
    assert "delete the folder of the stage that wrote it, and run the same command again" in str(error.value)
    assert Path(str(file)).exists()


@pytest.mark.parametrize("name", ["a dictionary", "patches"])
def test_a_whole_file_is_read(name, tmp_path):
    place, read = READ[name]
    place(resolve(tmp_path)).write(WHOLE)
    assert read(resolve(tmp_path)).shape[-4:] == (2, 3, 4, 4)
