"""Fixtures shared by all rooms: the real data, and a Ray that every test of a session shares."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real images and pretrained classifiers; set RAYPURIFY_DATA to point elsewhere."""
    folder = Path(os.environ.get("RAYPURIFY_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "cifar10" / "train-0.parquet").exists():
        pytest.skip("no real data: set RAYPURIFY_DATA to a folder with cifar10/train-0.parquet")
    return folder
