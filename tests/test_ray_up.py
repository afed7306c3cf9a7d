"""Files that make a cluster: what Ray's launcher takes, one set of versions, an image of the package alone."""

import json
import re
from importlib import resources
from pathlib import Path

import pytest
import yaml

from raypurify.runtime.session import KEEPALIVE
from raypurify.serve.hops import GRPC

jsonschema = pytest.importorskip("jsonschema")

REPOSITORY = Path(__file__).parents[1]
AWS, OWN = (yaml.safe_load((REPOSITORY / name).read_text()) for name in ("cluster.yaml", "deploy/cluster-onprem.yaml"))
# A line for each instruction.
DOCKERFILE = re.sub(r"^#.*\n|\\\n\s*", "", (REPOSITORY / "deploy" / "Dockerfile").read_text("utf-8"), flags=re.M)
PINS = dict(
    line.split("==") for line in (REPOSITORY / "deploy/constraints.txt").read_text().splitlines() if line[0] != "#"
)


@pytest.mark.parametrize("config", [AWS, OWN], ids=["aws", "own machines"])
def test_cluster_files_pass_rays_schema_and_ask_for_a_token(config):
    from ray.autoscaler._private.util import prepare_config, validate_config

    schema = json.loads((resources.files("ray.autoscaler") / "ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    validate_config(prepare_config(config))
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        starts = [line for line in commands if "ray start" in line]
        assert len(starts) == 1
        told = dict(pair.split("=") for pair in re.findall(r"\bRAY_\w+=\w+", starts[0].partition("ray start")[0]))
        assert told == {"RAY_AUTH_MODE": "token", **GRPC, **KEEPALIVE}
        assert "ulimit -n 65536" in starts[0]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    # The dashboard runs what it is sent.
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][1]
    assert any("constraints.txt" in line for line in config["setup_commands"])


def test_the_head_has_no_work_and_no_spot_instance_and_workers_have_both():
    kinds = AWS["available_node_types"]
    head = kinds.pop(AWS["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]
    assert "--num-cpus=0" in OWN["head_start_ray_commands"][1]
    assert {name: set(kind["resources"]) for name, kind in kinds.items()} == {
        "cpu_worker": {"CPU"},
        "gpu_worker": {"CPU", "GPU"},
    }
    assert sum(kind["max_workers"] for kind in kinds.values()) == AWS["max_workers"]
    for kind in kinds.values():
        assert kind["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert kind["node_config"]["IamInstanceProfile"] != head["node_config"]["IamInstanceProfile"]
    assert kinds["gpu_worker"]["min_workers"] == 0
    assert AWS["idle_timeout_minutes"] > 0
    kinds[AWS["head_node_type"]] = head


def test_no_key_of_a_store_is_in_the_files():
    for name in ("cluster.yaml", "deploy/cluster-onprem.yaml"):
        assert not re.search(r"AKIA|SECRET|ACCESS_KEY", (REPOSITORY / name).read_text("utf-8"))


def test_versions_are_the_same_in_all_files():
    images = [AWS["docker"]["image"], AWS["available_node_types"]["gpu_worker"]["docker"]["worker_image"]]
    for image in images:
        assert re.fullmatch(rf"rayproject/ray:{re.escape(PINS['ray'])}-py311-(cpu|gpu)", image)
    (python,) = re.findall(r"^FROM python:(3\.11)\.\d+-slim-\w+ AS python$", DOCKERFILE, re.M)
    assert any(f"python{python} -m venv" in line for line in OWN["setup_commands"])
    for name in ("cluster/raycluster.yaml", "service/rayservice.yaml"):
        spec = yaml.safe_load((REPOSITORY / "deploy/k8s" / name).read_text("utf-8"))["spec"]
        assert spec.get("rayClusterConfig", spec)["rayVersion"] == PINS["ray"]


def test_pinned_versions_are_ones_that_the_package_takes():
    tomllib = pytest.importorskip("tomllib")
    requirements = pytest.importorskip("packaging.requirements")

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    for text in project["dependencies"]:
        wanted = requirements.Requirement(text)
        assert wanted.specifier.contains(PINS[wanted.name.lower()]), text


def test_an_image_is_built_from_the_package_alone():
    tomllib = pytest.importorskip("tomllib")

    first, *lines = (line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line[0] != "#")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    assert first == "*"
    let_in = {line.removeprefix("!") for line in lines if line.startswith("!")}
    sources = {"pyproject.toml", "raypurify", project["readme"], *project["license-files"]}
    assert let_in == sources | {"deploy/constraints.txt"}
    # What a layer holds stays in the image, whatever a later one removes.
    assert not re.search(r"^(COPY|ADD)\b", DOCKERFILE, re.M)


def test_the_dockerfile_has_both_targets_and_what_it_names():
    stages = {}
    for block in re.split(r"^(?=FROM )", DOCKERFILE, flags=re.M)[1:]:
        base, name = re.match(r"FROM (\S+) AS (\w+)\n", block).groups()
        assert base in stages or re.fullmatch(r"\w+:[\d.]+-\S+", base), "an image by its version"
        stages[name] = block
        for mount in re.findall(r"--mount=(\S+)", block):
            options = dict(option.split("=") for option in mount.split(","))
            assert options["type"] == "bind"
            if "from" in options:
                assert f"--wheel-dir {options['source']} " in stages[options["from"]]
            elif "source" in options:
                assert (REPOSITORY / options["source"]).is_file()
    for target in ("cpu", "gpu"):
        assert stages[target].rstrip().endswith("USER ray")
        assert "-c /constraints.txt" in stages[target]
    # Whoever builds says where small wheels of torch are; no file names an index.
    assert "ARG PIP_EXTRA_INDEX_URL\n" in stages["cpu"]
    assert not any("index-url" in text for text in stages.values())
    assert "whl/cpu" not in stages["gpu"]
    # Else both targets hold the same packages.
    for name in ("deploy/Dockerfile", "docs/cluster.md"):
        text = (REPOSITORY / name).read_text("utf-8").replace("\\\n", "")
        builds = re.findall(r"docker build .*--target cpu .*", text)
        assert builds, name
        assert all('--build-arg PIP_EXTRA_INDEX_URL="$WHEELS"' in line for line in builds), name


def test_the_launcher_is_told_of_no_image_that_lacks_what_it_calls():
    called = all(re.search(rf"apt-get install .*\b{package}\b", DOCKERFILE) for package in ("rsync", "openssh-client"))
    home = "\nENV HOME=" in DOCKERFILE
    assert "deploy/Dockerfile" not in (REPOSITORY / "cluster.yaml").read_text("utf-8") or (called and home)


def test_what_the_page_and_the_files_name_is_there():
    page = "docs/cluster.md"
    files = [page, "cluster.yaml", "deploy/cluster-onprem.yaml", "deploy/Dockerfile", "jobs/with_gpus.py"]
    for name in files:
        text = (REPOSITORY / name).read_text("utf-8")
        named = re.findall(r"(?<![\w/.])(?:jobs|deploy|docs|benchmarks)/[\w./-]*\w", text)
        assert [path for path in named if not (REPOSITORY / path).exists()] == [], name
    folders = re.findall(r"kubectl apply -k (\S+)", (REPOSITORY / page).read_text("utf-8"))
    assert {"deploy/k8s/fit", "deploy/k8s/purify", "deploy/k8s/cluster"} == set(folders)
