"""The files in deploy/: valid where their readers are strict, one application, and nobody let in by accident."""

import json
import re
from pathlib import Path

import pytest
import yaml

from raypurify.errors import ConfigError
from raypurify.serve.auth import hash_token
from raypurify.serve.hops import GRPC
from raypurify.serve.settings import ServeSettings, parse_settings

DEPLOY = Path(__file__).parents[1] / "deploy"
SERVE = yaml.safe_load((DEPLOY / "serve.yaml").read_text("utf-8"))
SERVICE, *OBJECTS = yaml.safe_load_all((DEPLOY / "rayservice.yaml").read_text("utf-8"))
CLUSTER = SERVICE["spec"]["rayClusterConfig"]
GROUPS = [CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"]]
NAME = "app.kubernetes.io/name"


def selected(policy, pod):
    wanted = policy["spec"]["podSelector"].get("matchLabels", {})
    return wanted.items() <= pod["metadata"]["labels"].items()


def test_the_serve_file_says_every_setting_and_does_not_start_without_a_token():
    from ray.serve.schema import ServeDeploySchema

    (application,) = ServeDeploySchema.model_validate(SERVE).applications
    assert application.import_path == "raypurify.serve.app:build"
    assert set(application.args) == set(ServeSettings.model_fields) - {"no_auth", "known_hosts"}
    with pytest.raises(ConfigError, match="give token_sha256"):
        parse_settings(application.args)
    told = parse_settings({**application.args, "token_sha256": hash_token("x")})
    # The endpoint answers before Serve's proxy gives up in plain text.
    assert SERVE["http_options"]["request_timeout_s"] > told.timeout_s
    same = ServeSettings().model_dump(exclude={"token_sha256", "max_replicas"})
    assert told.model_dump(exclude={"token_sha256", "max_replicas"}) == same


def test_kubernetes_runs_the_same_application():
    assert yaml.safe_load(SERVICE["spec"]["serveConfigV2"]) == SERVE


def test_the_objects_of_the_manifest_are_valid():
    validate = pytest.importorskip("kubernetes_validate")
    version = validate.latest_version()
    for thing in OBJECTS:
        validate.validate(thing, version, strict=True)
    for group in GROUPS:
        validate.validate({"apiVersion": "v1", "kind": "Pod", **group["template"]}, version, strict=True)


def test_every_node_of_the_manifest_asks_for_a_token_and_is_confined():
    assert CLUSTER["authOptions"] == {"mode": "token"}
    for group in GROUPS:
        (container,) = group["template"]["spec"]["containers"]
        for name, value in {"RAY_AUTH_MODE": "token", **GRPC}.items():
            assert {"name": name, "value": value} in container["env"]
        assert {"name": "metrics", "containerPort": 8080} in container["ports"]
        assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
        confined = container["securityContext"]
        assert confined["runAsNonRoot"]
        assert not confined["allowPrivilegeEscalation"]
    version = CLUSTER["rayVersion"]
    assert f"rayproject/ray:{version}" in (DEPLOY / "Dockerfile").read_text("utf-8")
    assert f"ray[default,serve]=={version}" in (DEPLOY / "Dockerfile").read_text("utf-8")


def test_workers_get_callers_when_a_replica_has_solved_its_image():
    (workers,) = CLUSTER["workerGroupSpecs"]
    (container,) = workers["template"]["spec"]["containers"]
    (serve,) = (port for port in container["ports"] if port["name"] == "serve")
    assert container["readinessProbe"]["httpGet"] == {"path": "/v2/health/ready", "port": "serve"}
    assert serve["containerPort"] == SERVE["http_options"]["port"]
    from raypurify.serve.front import READY_S

    assert container["readinessProbe"]["timeoutSeconds"] > READY_S
    assert workers["template"]["spec"]["terminationGracePeriodSeconds"] > ServeSettings().timeout_s


def test_network_policies_let_nobody_in_but_whom_they_name():
    policies = [thing for thing in OBJECTS if thing["kind"] == "NetworkPolicy"]
    for group in GROUPS:
        pod = group["template"]
        mine = [policy for policy in policies if selected(policy, pod)]
        # Where any policy selects a pod, what none lets in stays out.
        assert any("ingress" not in policy["spec"] for policy in mine)
        ports = set()
        for policy in mine:
            assert policy["spec"]["policyTypes"] == ["Ingress"]
            for rule in policy["spec"].get("ingress", []):
                assert rule["from"]
                assert all(peer.values() for peer in rule["from"])
                (peer,) = rule["from"]
                own = peer == {"podSelector": {"matchLabels": {NAME: "raypurify"}}}
                assert own or rule["ports"]
                ports |= {port["port"] for port in rule.get("ports", [])}
        head = group is CLUSTER["headGroupSpec"]
        assert ports == ({8265, 8080} if head else {8000, 8080})
    assert SERVICE["spec"]["excludeHeadPodFromServeSvc"]


def test_callers_come_by_tls():
    (ingress,) = (thing for thing in OBJECTS if thing["kind"] == "Ingress")
    assert [rule["host"] for rule in ingress["spec"]["rules"]] == ingress["spec"]["tls"][0]["hosts"]


def test_proxies_let_in_the_largest_body_that_the_endpoint_takes():
    (ingress,) = (thing for thing in OBJECTS if thing["kind"] == "Ingress")
    nginx = ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-body-size"]
    (caddy,) = re.findall(r"max_size (\d+)MiB\n", (DEPLOY / "Caddyfile").read_text("utf-8"))
    (application,) = SERVE["applications"]
    largest = max(application["args"]["max_bytes"], application["args"]["max_batch_bytes"])
    for size in (nginx.removesuffix("m"), caddy):
        assert int(size) << 20 > largest
    assert f"{caddy} MiB for a body" in (DEPLOY.parent / "docs" / "serve-operations.md").read_text("utf-8")


def test_nothing_is_deployed_on_a_head_that_has_no_processors(tmp_path):
    from raypurify.serve.jobs.deployment import supervised

    assert CLUSTER["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    jobs = supervised(parse_settings({"no_auth": True, "job_roots": str(tmp_path)}))._bound_deployment
    assert jobs.ray_actor_options["num_cpus"] > 0


def test_an_image_is_built_from_the_package_alone():
    tomllib = pytest.importorskip("tomllib")

    first, *lines = (line for line in (DEPLOY.parent / ".dockerignore").read_text().splitlines() if line[0] != "#")
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text("utf-8"))["project"]
    assert first == "*"
    let_in = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert let_in == {"pyproject.toml", "raypurify", project["readme"], *project["license-files"]}
    # What a layer holds stays in the image, whatever a later one removes.
    assert "COPY" not in (DEPLOY / "Dockerfile").read_text("utf-8")


def test_the_dashboard_is_one_that_grafana_imports():
    board = json.loads((DEPLOY / "grafana.json").read_text("utf-8"))
    assert board["schemaVersion"] >= 36
    assert [panel["id"] for panel in board["panels"]] == list(range(1, len(board["panels"]) + 1))
    variables = {variable["name"] for variable in board["templating"]["list"]}
    for panel in board["panels"]:
        assert panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            # Brackets close, and what is put in is known to the dashboard or to Grafana.
            for one, other in ("()", "{}", "[]"):
                assert target["expr"].count(one) == target["expr"].count(other)
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= variables | {"__rate_interval"}
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(set(places)) == len(places)
