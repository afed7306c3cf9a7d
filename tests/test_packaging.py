"""The package as others get it: what its distributions hold, and that it works installed, without the repository."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from raypurify.version import __version__

REPOSITORY = Path(__file__).resolve().parents[1]
NAME = f"raypurify-{__version__}"
# What a source distribution lacks, and what building it adds.
LEFT_OUT = {".ci/run", ".dockerignore", ".gitignore"}
MADE = re.compile(r"PKG-INFO|setup\.cfg|raypurify\.egg-info/.*")
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, f'build_{sys.argv[1]}')(sys.argv[2])"


def run(*command: object, cwd: Path, **env: str) -> subprocess.CompletedProcess:
    base = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "RAY_ADDRESS")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=base | env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def tracked():
    """The files of the checkout that git knows, or would take; a link is one of them."""
    if not (REPOSITORY / ".git").exists() or not shutil.which("git"):
        pytest.skip("no checkout of git: what belongs to the package is not known")
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=REPOSITORY).stdout
    return {name for name in listed.split("\0") if name and os.path.lexists(REPOSITORY / name)}


@pytest.fixture(scope="module")
def built(tracked, tmp_path_factory):
    """The source distribution of a copy, as a build writes beside its source, and the wheel that is built from it."""
    pytest.importorskip("setuptools", minversion="77")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in tracked:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, source / name, follow_symlinks=False)
    run(sys.executable, "-c", BUILD, "sdist", out, cwd=source)
    with tarfile.open(out / f"{NAME}.tar.gz") as archive:
        archive.extractall(out, filter="data")
    run(sys.executable, "-c", BUILD, "wheel", out, cwd=out / NAME)
    return out / f"{NAME}.tar.gz", out / f"{NAME}-py3-none-any.whl"


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The commands of a new environment with the wheel, which sees what this one has installed, not the repository."""
    pytest.importorskip("pip", minversion="22.3")
    place = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", place, cwd=place)
    pip = [sys.executable, "-m", "pip", "--python", place / "bin" / "python", "install"]
    run(*pip, "--no-deps", "--no-index", "--no-compile", built[1], cwd=place)
    (packages,) = place.glob("lib/python*/site-packages")
    # Of a folder that is added so, only the packages are seen: no editable installation, which has a file like this.
    (packages / "others.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    return place / "bin"


def test_the_wheel_holds_the_package_and_nothing_else(tracked, built):
    with zipfile.ZipFile(built[1]) as wheel:
        names = set(wheel.namelist())
        metadata = Parser().parsestr(wheel.read(f"{NAME}.dist-info/METADATA").decode())
        entry_points = wheel.read(f"{NAME}.dist-info/entry_points.txt").decode()
    about = {name for name in names if name.startswith(f"{NAME}.dist-info/")}
    assert names - about == {name for name in tracked if name.startswith("raypurify/")}
    assert f"{NAME}.dist-info/licenses/LICENSE" in about
    assert "raypurify = raypurify.cli.app:main" in entry_points
    assert (metadata["Name"], metadata["Version"]) == ("raypurify", __version__)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == "<3.14,>=3.10"
    assert {"evaluation", "heic", "test", "docs"} <= set(metadata.get_all("Provides-Extra"))
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_the_source_distribution_holds_what_the_tests_need(tracked, built):
    with tarfile.open(built[0]) as archive:
        names = {one.name.removeprefix(f"{NAME}/") for one in archive.getmembers() if one.isfile()}
    linked = {f"examples/{name.removeprefix('raypurify/examples/')}" for name in tracked if "examples/cifar10/" in name}
    belongs = tracked - LEFT_OUT - {"examples/cifar10"} | linked
    assert {name for name in names if not MADE.fullmatch(name)} == belongs


def test_the_demo_runs_where_no_repository_is(installed, tmp_path):
    said = run(installed / "raypurify", "--version", cwd=tmp_path).stdout
    assert said.startswith(f"raypurify {__version__} from {installed.parent}")
    told = json.loads(run(installed / "raypurify", "demo", "out", "--json", cwd=tmp_path).stdout)
    assert {name: told[name] for name in ("command", "exit", "images", "purified", "failed")} == {
        "command": "demo",
        "exit": 0,
        "images": 48,
        "purified": 48,
        "failed": 0,
    }
    assert (tmp_path / told["picture"]).is_file()
    (came_from,) = json.loads((tmp_path / "out" / "_raypurify" / "job.json").read_text())["source"]["uris"]
    assert came_from.startswith(str(installed.parent))
    assert [len([*(tmp_path / "out" / name).glob("*.png")]) for name in ("clean", "attacked")] == [24, 24]
    assert "48/48 images, 0 failed" in run(installed / "raypurify", "status", "out", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("CITATION.cff", r"^version: (\S+)$"),
        ("CHANGELOG.md", r"^## \[([\d.]+)\]"),
        ("deploy/Dockerfile", r"-t raypurify:(\S+) "),
    ],
)
def test_every_file_that_names_the_version_names_this_one(file, pattern):
    assert re.search(pattern, (REPOSITORY / file).read_text("utf-8"), re.M)[1] == __version__
