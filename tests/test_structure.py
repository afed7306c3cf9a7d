"""The rules of the house: who may import what, how a docstring begins, and how long a module may be."""

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from import_graph import import_graph, imported, modules_below

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "raypurify"
# A room imports from those before it and from itself. The package's own __init__, with load, stands behind purifiers.
GROUND = (
    "errors",
    "version",
    "trees",
    "supervision",
    "regions",
    "fronts",
    "config",
    "scans",
    "png",
    "images",
    "pictures",
    "disk",
    "stores",
    "storage",
    "files",
    "client",
)
MATHEMATICS = (
    "csc",
    "patches",
    "clusters",
    "nets",
    "bundle",
    "purifiers",
    "methods",
    "raypurify",
    "attacks",
    "modules",
    "art",
    "training",
)
RAY = ("runtime", "serve", "bulk", "fit", "evaluation", "cli", "__main__")
# Neither needs nor imports Ray, in spite of its name: ``raypurify.ray`` is handed what Ray Data hands to it.
ROOMS = (*GROUND, *MATHEMATICS, "containers", "ray", *RAY)
LEANING = re.compile(r"(The same\b|Of |And |It |This |As above|Likewise|\()")
HEAVY = ("torch", "ray", "sporco", "numba", "sklearn", "torchvision", "matplotlib", "skimage", "pywt", "scipy")


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def test_every_room_has_its_place():
    assert {room_of(module) for module in modules_below(PACKAGE)} - {"presets", "bundles", "examples"} == set(ROOMS)


def test_no_import_runs_back_up():
    graph = import_graph(modules_below(PACKAGE))
    upward = [
        f"{module} imports {other}"
        for module, others in graph.items()
        for other in others
        if ROOMS.index(room_of(other)) > ROOMS.index(room_of(module))
    ]
    assert not upward


@pytest.mark.parametrize("folder", ["raypurify", "benchmarks", "tests"])
def test_no_modules_import_each_other(folder):
    try:
        TopologicalSorter(import_graph(modules_below(REPOSITORY / folder))).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' → '.join(error.args[1])}")


def test_only_the_rooms_of_ray_import_it():
    without = [module for module in modules_below(PACKAGE).items() if room_of(module[0]) not in RAY]
    assert not [name for name, path in without if any(one.split(".")[0] == "ray" for one in imported(path))]


def test_mathematics_runs_without_ray_sporco_numba_and_scikit_learn():
    code = (
        "import sys\n"
        "for name in ('ray', 'sporco', 'numba', 'sklearn', 'torchvision', 'skimage', 'pywt'):\n"
        "    sys.modules[name] = None\n"
        "import torch, raypurify, raypurify.training, raypurify.attacks\n"
        "out = raypurify.load('cifar10').purify(torch.rand(2, 3, 32, 32))\n"
        "print(tuple(out.images.shape))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "(2, 3, 32, 32)", run.stderr


def test_importing_the_package_loads_nothing_heavy():
    code = f"import sys, raypurify\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_docstrings_name_their_subject():
    """They are read one at a time, in tooltips: none leans on what stands before it."""
    leaning = []
    for name, path in modules_below(PACKAGE).items():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node) or ""
                if not getattr(node, "name", "").startswith("_") and LEANING.match(text):
                    leaning.append(f"{name}.{getattr(node, 'name', '')}: {text.splitlines()[0]}")
    assert not leaning


def test_no_module_is_long():
    lengths = {p: len(p.read_text().splitlines()) for p in PACKAGE.rglob("*.py")}
    assert not {str(p): n for p, n in lengths.items() if n > 400}
    assert sorted(lengths.values())[len(lengths) // 2] < 150


@pytest.mark.parametrize("folder", ["benchmarks", "jobs", "examples"])
def test_scripts_beside_the_package_import_what_it_has(folder):
    """Nobody runs all of them at every change: a name that has moved would be found by the next user."""
    missing = []
    for script in (REPOSITORY / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(script.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "raypurify":
                module = importlib.import_module(node.module)
                missing += [
                    f"{script.name}: {node.module}.{name.name}"
                    for name in node.names
                    if not hasattr(module, name.name) and not importlib.util.find_spec(f"{node.module}.{name.name}")
                ]
    assert missing == []
