"""The rules of the house: who may import what, how long a module may be, and that the deployment files are valid."""

import ast
import json
import subprocess
import sys
from importlib import resources
from pathlib import Path

import jsonschema
import pytest
import yaml

PACKAGE = Path(__file__).resolve().parents[1] / "raypurify"
MATHEMATICS = ("csc", "clusters", "nets", "training", "purifiers", "attacks")
HEAVY = ("torch", "ray", "sporco", "numba", "sklearn", "torchvision", "matplotlib", "skimage", "pywt", "scipy")


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at the top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("room", MATHEMATICS)
def test_mathematics_knows_nothing_of_ray(room):
    for path in (PACKAGE / room).rglob("*.py"):
        names = imports(path)
        assert not {n for n in names if n.split(".")[0] == "ray"}, path
        assert not {n for n in names if n.startswith(("raypurify.pipeline", "raypurify.serve", "raypurify.cli"))}, path


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


def test_no_module_is_long():
    lengths = {p: len(p.read_text().splitlines()) for p in PACKAGE.rglob("*.py")}
    assert not {str(p): n for p, n in lengths.items() if n > 400}
    assert sorted(lengths.values())[len(lengths) // 2] < 150


def test_cluster_yaml_passes_rays_schema_and_asks_for_a_token():
    config = yaml.safe_load((PACKAGE.parent / "cluster.yaml").read_text())
    schema = json.loads((resources.files("ray.autoscaler") / "ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    kinds = config["available_node_types"]
    assert any("GPU" in kind["resources"] for kind in kinds.values())
    assert any(kind["resources"].get("CPU") and "GPU" not in kind["resources"] for kind in kinds.values())
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert all("RAY_AUTH_MODE=token" in line for line in commands if "ray start" in line)


def test_cluster_yaml_is_what_ray_up_accepts():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((PACKAGE.parent / "cluster.yaml").read_text())
    prepared = prepare_config(config)
    validate_config(prepared)
    assert set(prepared["available_node_types"]) == {"head", "cpu_worker", "gpu_worker"}
