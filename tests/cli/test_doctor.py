"""``raypurify doctor`` says what is there, and names what is broken without stopping at it."""

from importlib import metadata

import pytest
import torch

from raypurify.bundle import shipped_bundles
from raypurify.cli import doctor
from raypurify.version import __version__


@pytest.fixture
def findings(local_ray):
    return lambda: {finding.name: finding for finding in doctor.examine()}


def test_a_machine_that_passes_the_tests_is_well(findings):
    found = findings()
    assert list(found) == ["packages", "devices", "bundles", "sparse coding", "disk", "ray"]
    assert [finding.name for finding in found.values() if not finding.ok] == []
    assert f"raypurify {__version__}" in found["packages"].text
    assert f"torch {torch.__version__}" in found["packages"].text
    assert all(name in found["bundles"].text for name in shipped_bundles())
    assert "1 node, " in found["ray"].text


def test_what_is_broken_is_named_and_the_rest_is_looked_at(findings, monkeypatch):
    version = metadata.version

    def without_numba(name):
        if name in ("numba", "scikit-image"):
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", without_numba)
    monkeypatch.setattr(doctor, "LEAST_DISK", 1 << 60)
    monkeypatch.setattr(doctor, "__version__", "9.9")
    found = findings()
    assert {name for name, finding in found.items() if not finding.ok} == {"packages", "disk", "ray"}
    assert found["packages"].text == "missing: numba; pip install raypurify again"
    assert "set RAY_TMPDIR" in found["disk"].text
    assert f"has raypurify {__version__}, not 9.9: install the same" in found["ray"].text


def test_a_missing_extra_is_no_failure(findings, monkeypatch):
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: version("no-such-package" if name == "PyWavelets" else name))
    found = findings()["packages"]
    assert found.ok
    assert "without the extra [evaluation]: PyWavelets" in found.text
    assert len(found.text) < 500
