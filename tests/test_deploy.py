"""The endpoint's files in deploy/: valid where readers are strict, one application, nobody let in by accident."""

import json
import re
from pathlib import Path

import pytest
import yaml

from raypurify.errors import ConfigError
from raypurify.serve.app import build
from raypurify.serve.auth import hash_token
from raypurify.serve.settings import MAX_INGRESSES, ServeSettings, parse_settings

DEPLOY = Path(__file__).parents[1] / "deploy"
SERVE = yaml.safe_load((DEPLOY / "serve.yaml").read_text("utf-8"))
SERVICE, *OBJECTS = (
    thing
    for name in ("rayservice.yaml", "around.yaml")
    for thing in yaml.safe_load_all((DEPLOY / "k8s" / "service" / name).read_text("utf-8"))
)
CLUSTER = SERVICE["spec"]["rayClusterConfig"]


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


def test_kubernetes_runs_the_same_application_with_one_of_each_to_spare():
    served = yaml.safe_load(SERVICE["spec"]["serveConfigV2"])
    args, same = (config["applications"][0]["args"] for config in (served, SERVE))
    fewest = {name for name in args if name.startswith("min_")}
    assert "min_replicas" in fewest
    (workers,) = CLUSTER["workerGroupSpecs"]
    for name in fewest:
        # A worker with nothing of the application takes no callers.
        assert args[name] == workers["minReplicas"] == 2
        args[name] = same[name]
    assert served == SERVE


def test_kuberay_makes_the_service_that_the_ingress_names():
    (head,) = CLUSTER["headGroupSpec"]["template"]["spec"]["containers"]
    # It takes the ports of the head for those of workers.
    (serve,) = (port for port in head["ports"] if port["name"] == "serve")
    (ingress,) = (thing for thing in OBJECTS if thing["kind"] == "Ingress")
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    named = {"name": f"{SERVICE['metadata']['name']}-serve-svc", "port": {"number": serve["containerPort"]}}
    assert path["backend"]["service"] == named
    assert serve["containerPort"] == SERVE["http_options"]["port"]


def test_a_drain_leaves_a_worker_that_answers():
    (budget,) = (thing for thing in OBJECTS if thing["kind"] == "PodDisruptionBudget")
    (workers,) = CLUSTER["workerGroupSpecs"]
    # A RayCluster has no scale subresource, without which Kubernetes lets no pod go that maxUnavailable is about.
    assert set(budget["spec"]) == {"minAvailable", "selector"}
    assert 1 <= budget["spec"]["minAvailable"] < workers["minReplicas"]
    chosen = budget["spec"]["selector"]["matchLabels"].items()
    both = (CLUSTER["headGroupSpec"], workers)
    assert [chosen <= group["template"]["metadata"]["labels"].items() for group in both] == [False, True]


def test_workers_get_callers_when_a_replica_has_solved_its_image():
    (workers,) = CLUSTER["workerGroupSpecs"]
    (container,) = workers["template"]["spec"]["containers"]
    (serve,) = (port for port in container["ports"] if port["name"] == "serve")
    assert container["readinessProbe"]["httpGet"] == {"path": "/v2/health/ready", "port": "serve"}
    assert serve["containerPort"] == SERVE["http_options"]["port"]
    from raypurify.serve.front import READY_S

    assert container["readinessProbe"]["timeoutSeconds"] > READY_S
    # Kubernetes waits for Ray, and Ray for the last answer.
    told = {one["name"]: one.get("value") for one in container["env"]}
    drain = float(told["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
    last = SERVE["http_options"]["request_timeout_s"]
    assert workers["template"]["spec"]["terminationGracePeriodSeconds"] > drain > last > ServeSettings().timeout_s


def test_callers_reach_workers_alone():
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


def test_so_many_ingresses_are_there_as_are_asked_for():
    for fewest in (1, 2):
        ingress = build({"no_auth": True, "min_ingresses": fewest})._bound_deployment
        scaling = ingress._deployment_config.autoscaling_config
        assert (ingress.name, scaling.min_replicas, scaling.max_replicas) == ("Ingress", fewest, MAX_INGRESSES)
    with pytest.raises(ConfigError, match=r"min_ingresses: .* less than or equal to 4"):
        parse_settings({"no_auth": True, "min_ingresses": 5})


def test_the_dashboard_is_one_that_grafana_imports():
    board = json.loads((DEPLOY / "grafana.json").read_text("utf-8"))
    assert board["schemaVersion"] >= 36
    assert sorted(panel["id"] for panel in board["panels"]) == list(range(1, len(board["panels"]) + 1))
    variables = {variable["name"] for variable in board["templating"]["list"]}
    for panel in board["panels"]:
        assert panel["title"]
        if panel["type"] == "row":
            continue
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            # Brackets close, and what is put in is known to the dashboard or to Grafana.
            for one, other in ("()", "{}", "[]"):
                assert target["expr"].count(one) == target["expr"].count(other)
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= variables | {"__rate_interval"}
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(set(places)) == len(places)
