"""deploy/k8s: what kubectl builds of a folder is valid to KubeRay and Kubernetes, confined and closed."""

import copy
import functools
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from raypurify.runtime.session import KEEPALIVE
from raypurify.serve.hops import GRPC

jsonschema = pytest.importorskip("jsonschema")

REPOSITORY = Path(__file__).parents[1]
FOLDERS = ("cluster", "fit", "purify", "service", "service-ha")
SCHEMA = json.loads((REPOSITORY / "tests" / "fixtures" / "kuberay-1.7.0.json").read_text("utf-8"))
# Maps whose keys are anybody's.
FREE = {"labels", "annotations", "rayStartParams", "requests", "limits"}
PODS = {"template", "submitterPodTemplate"}
NAME = "app.kubernetes.io/name"
# What is there before a folder is built, and without kubectl.
SOURCES = sorted((REPOSITORY / "deploy" / "k8s").rglob("ray*.yaml"))


@functools.cache
def built(folder: str) -> tuple[dict, ...]:
    """What ``kubectl apply -k`` would send."""
    if not shutil.which("kubectl"):
        pytest.skip("needs kubectl, which builds the folders of deploy/k8s")
    command = ["kubectl", "kustomize", str(REPOSITORY / "deploy" / "k8s" / folder)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert not run.returncode, run.stderr
    return tuple(yaml.safe_load_all(run.stdout))


def of_ray(folder: str) -> list[dict]:
    return [thing for thing in built(folder) if thing["apiVersion"] == "ray.io/v1"]


def pods(thing) -> list[dict]:
    """All templates of pods in a resource of KubeRay's."""
    if not isinstance(thing, dict | list):
        return []
    if isinstance(thing, list):
        return [pod for part in thing for pod in pods(part)]
    return [pod for key, part in thing.items() for pod in ([part] if key in PODS else pods(part))]


def check(thing: dict) -> None:
    jsonschema.Draft202012Validator({"$ref": f"#/$defs/{thing['kind']}", **SCHEMA}).validate(thing)


def cluster_of(thing: dict) -> dict | None:
    """The cluster that a resource of KubeRay's describes."""
    spec = thing["spec"]
    return spec if thing["kind"] == "RayCluster" else spec.get("rayClusterSpec") or spec.get("rayClusterConfig")


def check_confined(context: dict) -> None:
    """What a namespace that enforces `restricted` asks of each container."""
    assert context["runAsNonRoot"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_file_is_valid_and_confined_before_it_is_built(path):
    thing = yaml.safe_load(path.read_text("utf-8"))
    check(thing)
    for pod in pods(thing):
        for container in pod["spec"]["containers"]:
            check_confined(container["securityContext"])
    if cluster := cluster_of(thing):
        # KubeRay puts its autoscaler beside the head.
        check_confined(cluster["autoscalerOptions"]["securityContext"])


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_builds_into_what_kuberay_and_kubernetes_take(folder):
    validate = pytest.importorskip("kubernetes_validate")
    version = validate.latest_version()
    for thing in built(folder):
        assert thing["metadata"]["namespace"] == "raypurify"
        if thing["apiVersion"] != "ray.io/v1":
            validate.validate(thing, version, strict=True)
            continue
        check(thing)
        for pod in pods(thing):
            validate.validate({"apiVersion": "v1", "kind": "Pod", **pod}, version, strict=True)


def misspelt(thing, seen=()):
    """The same resource with one field misspelt, for every field of it that KubeRay knows."""
    for key, part in list(thing.items()):
        if key not in ("apiVersion", "kind"):
            wrong = {f"{key}x" if name == key else name: value for name, value in thing.items()}
            yield (*seen, key), wrong
        for k, inner in enumerate(part) if isinstance(part, list) else [(None, part)]:
            if isinstance(inner, dict) and key not in FREE | PODS:
                for path, wrong in misspelt(inner, (*seen, key)):
                    whole = copy.copy(thing)
                    whole[key] = wrong if k is None else [*part[:k], wrong, *part[k + 1 :]]
                    yield path, whole


@pytest.mark.parametrize("folder", ["cluster", "fit", "service-ha"])
def test_a_misspelt_field_is_found_wherever_it_is(folder):
    (thing,) = of_ray(folder)
    missed, tried = [], 0
    for path, wrong in misspelt(thing):
        tried += 1
        try:
            check(wrong)
        except jsonschema.ValidationError:
            continue
        missed.append(".".join(path))
    assert not missed
    assert tried > 25


@pytest.mark.parametrize("folder", FOLDERS)
def test_pods_are_confined_and_run_what_is_pinned(folder):
    from raypurify.version import __version__

    (thing,) = of_ray(folder)
    for pod in pods(thing):
        (container,) = pod["spec"]["containers"]
        name, _, tag = container["image"].rpartition(":")
        assert name.removeprefix("registry.example.org/") in ("raypurify", "raypurify-gpu")
        assert tag == __version__
        check_confined(container["securityContext"])
        assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
        head = pod["metadata"]["labels"]["app.kubernetes.io/component"] == "head"
        assert pod["spec"]["automountServiceAccountToken"] is head
        gpus = "nvidia.com/gpu" in container["resources"]["limits"]
        assert gpus == name.endswith("-gpu") == ("nvidia.com/gpu.present" in pod["spec"].get("nodeSelector", {}))
        assert gpus == any(one["key"] == "nvidia.com/gpu" for one in pod["spec"].get("tolerations", []))


@pytest.mark.parametrize("folder", FOLDERS)
def test_clusters_ask_for_a_token_and_have_an_end(folder):
    (thing,) = of_ray(folder)
    cluster = cluster_of(thing)
    check_confined(cluster["autoscalerOptions"]["securityContext"])
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["maxReplicas"] <= 8
    for pod in pods(cluster):
        told = {one["name"]: one["value"] for one in pod["spec"]["containers"][0]["env"] if "value" in one}
        assert {"RAY_AUTH_MODE": "token", **GRPC, **KEEPALIVE}.items() <= told.items()
        assert pod["spec"]["serviceAccountName"] == "raypurify"


def test_a_job_has_the_cluster_of_the_cluster_folder_and_ends_with_it():
    (cluster,) = of_ray("cluster")
    (fit,), (purify,) = of_ray("fit"), of_ray("purify")
    assert purify["spec"]["rayClusterSpec"] == cluster["spec"]
    own = copy.deepcopy(cluster["spec"])
    assert own["workerGroupSpecs"][1]["groupName"] == "gpu"
    own["workerGroupSpecs"][1]["minReplicas"] = 4
    assert fit["spec"]["rayClusterSpec"] == own
    for job in (fit, purify):
        assert job["spec"]["shutdownAfterJobFinishes"]
        assert job["spec"]["ttlSecondsAfterFinished"] < 3600
        # Each attempt starts a cluster, with its GPUs, before a wrong option is found.
        assert job["spec"]["backoffLimit"] == 1


def test_a_cluster_and_the_endpoint_may_stand_in_one_namespace():
    things = [thing for folder in ("cluster", "fit", "purify", "service") for thing in of_ray(folder)]
    names = [thing["metadata"]["name"] for thing in things]
    assert len(set(names)) == len(names), "KubeRay names the service of a head after what it belongs to"


def test_jobs_are_commands_that_are_there():
    import typer

    from raypurify.cli.app import app

    commands = typer.main.get_command(app).commands
    for folder in ("fit", "purify"):
        program, name, *arguments = of_ray(folder)[0]["spec"]["entrypoint"].split()
        assert program == "raypurify"
        context = commands[name].make_context(name, arguments, resilient_parsing=False)
        assert "BUCKET/runs/a" in " ".join(map(str, context.params.values()))


def selects(policy, pod):
    wanted = policy["spec"]["podSelector"].get("matchLabels", {})
    return wanted.items() <= pod["metadata"]["labels"].items()


@pytest.mark.parametrize("folder", FOLDERS)
def test_network_policies_let_nobody_in_but_whom_they_name(folder):
    policies = [thing for thing in built(folder) if thing["kind"] == "NetworkPolicy"]
    (thing,) = of_ray(folder)
    for pod in pods(thing):
        mine = [policy for policy in policies if selects(policy, pod)]
        # Where any policy selects a pod, what none lets in stays out.
        assert any("ingress" not in policy["spec"] for policy in mine)
        ports = set()
        for policy in mine:
            assert policy["spec"]["policyTypes"] == ["Ingress"]
            for rule in policy["spec"].get("ingress", []):
                (peer,) = rule["from"]
                assert all(peer.values())
                own = peer == {"podSelector": {"matchLabels": {NAME: "raypurify"}}}
                assert own or rule["ports"]
                ports |= {port["port"] for port in rule.get("ports", [])}
        allowed = {"head": {8265, 8080}, "serve-worker": {8000, 8080}}
        assert ports == allowed.get(pod["metadata"]["labels"]["app.kubernetes.io/component"], {8080})


def test_a_head_that_may_be_lost_keeps_its_state_in_redis_under_a_secret_password():
    (plain,), (lasting,) = of_ray("service"), of_ray("service-ha")
    options = lasting["spec"]["rayClusterConfig"].pop("gcsFaultToleranceOptions")
    assert set(options["redisPassword"]) == {"valueFrom"}
    assert options["redisPassword"]["valueFrom"]["secretKeyRef"]["name"] == "raypurify-redis"
    (workers,) = lasting["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    (spread,) = workers["template"]["spec"].pop("topologySpreadConstraints")
    assert spread["labelSelector"]["matchLabels"].items() <= workers["template"]["metadata"]["labels"].items()
    assert lasting == plain
