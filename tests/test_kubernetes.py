"""The manifests in deploy/kubernetes hold together with each other, with Kubernetes's schemas and with the code."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from app import metrics
from app.cli import ROOT
from app.config import Settings
from app.main import create_app
from app.workers.settings import WORKER_NAMES
from tests.conftest import make_settings
from tests.test_deploy import assert_command, image_environment

FOLDER = ROOT / "deploy" / "kubernetes"
KUBERNETES = "1.33"
# Resources of the Prometheus operator; Kubernetes itself has no schema for them.
FOREIGN = {"ServiceMonitor", "PodMonitor", "PrometheusRule"}
INSIDE_ONLY = {"/healthz", "/livez", "/readyz", "/metrics"}


def kustomization(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((folder / "kustomization.yaml").read_text())
    return loaded


def resources(folder: Path) -> Iterator[dict[str, Any]]:
    """All that an apply of a folder would bring, before its patches."""
    for name in kustomization(folder)["resources"]:
        if (folder / name).is_dir():
            yield from resources(folder / name)
        else:
            yield from yaml.safe_load_all((folder / name).read_text())


ALL = list(resources(FOLDER / "overlays" / "example"))


def of_kind(*kinds: str) -> list[dict[str, Any]]:
    return [one for one in ALL if one["kind"] in kinds]


def named(kind: str, name: str) -> dict[str, Any]:
    (found,) = [one for one in of_kind(kind) if one["metadata"]["name"] == name]
    return found


PODS: dict[str, dict[str, Any]] = {
    one["metadata"]["name"]: one["spec"].get("jobTemplate", one)["spec"]["template"]
    for one in of_kind("Deployment", "Job", "CronJob")
}


def container(name: str) -> dict[str, Any]:
    (only,) = PODS[name]["spec"]["containers"]
    found: dict[str, Any] = only
    return found


def literals() -> dict[str, str]:
    """The settings that all pods have, as base and example set them."""
    given = [
        literal.partition("=")
        for folder in ("base", "overlays/example")
        for generator in kustomization(FOLDER / folder)["configMapGenerator"]
        if generator["name"] == "cashback-settings"
        for literal in generator["literals"]
    ]
    return {name: value for name, _, value in given}


def environment(name: str) -> dict[str, str]:
    own = {one["name"]: one["value"] for one in container(name).get("env", [])}
    return image_environment() | literals() | own


def paths() -> set[str]:
    application = create_app(make_settings(database_url="postgresql://", redis_url="redis://"))
    return set(application.openapi()["paths"])


@pytest.mark.parametrize(
    "one", [x for x in ALL if x["kind"] not in FOREIGN], ids=lambda x: f"{x['kind']}-{x['metadata']['name']}"
)
def test_resources_fit_the_schemas_of_kubernetes(one: dict[str, Any]) -> None:
    kubernetes_validate.validate(one, KUBERNETES, strict=True)


def test_the_schemas_refuse_what_is_wrong() -> None:
    wrong = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"prots": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


def test_every_file_is_part_of_the_example() -> None:
    reached = {FOLDER / "overlays" / "example" / "kustomization.yaml", FOLDER / "monitoring" / "dashboard.json"}
    for folder in ("base", "monitoring"):
        reached |= {FOLDER / folder / name for name in kustomization(FOLDER / folder)["resources"]}
        reached.add(FOLDER / folder / "kustomization.yaml")
    assert reached == {file for file in FOLDER.rglob("*") if file.is_file()}


def test_every_process_is_there_with_a_command_that_exists() -> None:
    commands = {name: container(name)["args"] for name in PODS}
    assert commands == {
        "cashback-api": ["cashback", "serve"],
        "cashback-webhook-intake": ["cashback", "serve"],
        "cashback-worker-default": ["cashback", "worker", "default"],
        "cashback-worker-sync": ["cashback", "worker", "sync"],
        "cashback-migrate": ["cashback", "migrate"],
        "cashback-retention": ["cashback", "retention", "--apply"],
    }
    assert {f"cashback-worker-{kind}" for kind in WORKER_NAMES} <= set(commands)
    for arguments in commands.values():
        assert_command(arguments)
    for name in PODS:
        # The image's entrypoint stays in place.
        assert "command" not in container(name)
        assert container(name)["image"] == kustomization(FOLDER / "overlays" / "example")["images"][0]["name"]


def test_variables_are_settings_and_settings_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = {
        "DATABASE_URL": "postgresql://cashback@db/cashback",
        "REDIS_URL": "redis://cache",
        "SECRET_KEY": "b7d1f08c5e4a4f23a96c0d7e81b2f3a4c5d6e7f8091a2b3c4d5e6f708192a3b4",
        "ENCRYPTION_KEYS": "pDf3b2n0ZJr7m8b0m0b1x0m8m2J6n5x3q1w9e7r5t3Y=",
    }
    for name in PODS:
        known = environment(name)
        assert {variable.lower() for variable in known} - {
            "path",
            "pythonunbuffered",
            "pythondontwritebytecode",
        } <= set(Settings.model_fields), name
        for variable, value in {**known, **secret}.items():
            if variable.lower() in Settings.model_fields:
                monkeypatch.setenv(variable, value)
        Settings(_env_file=None)
    assert environment("cashback-webhook-intake")["READYZ_REQUIRES"] == "postgres"


def test_no_secret_is_in_the_repository() -> None:
    secrets = {name.upper() for name, field in Settings.model_fields.items() if "Secret" in str(field.annotation)}
    for name in PODS:
        assert not secrets & set(environment(name))
    assert not of_kind("Secret")


def test_probes_ask_for_paths_and_ports_that_there_are() -> None:
    known = paths()
    for name in ("cashback-api", "cashback-webhook-intake"):
        one = container(name)
        asked = {kind: one[kind]["httpGet"]["path"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")}
        assert asked == {"startupProbe": "/healthz", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
        assert set(asked.values()) <= known
        assert one["ports"] == [{"name": "http", "containerPort": int(environment(name)["PORT"])}]
        timeout = float(
            literals().get("READYZ_TIMEOUT_SECONDS", Settings.model_fields["readyz_timeout_seconds"].default)
        )
        assert one["readinessProbe"]["timeoutSeconds"] > timeout
    for name in ("cashback-worker-default", "cashback-worker-sync"):
        one = container(name)
        assert one["livenessProbe"]["httpGet"] == {"path": "/metrics", "port": "metrics"}
        assert one["ports"] == [{"name": "metrics", "containerPort": int(environment(name)["WORKER_METRICS_PORT"])}]


def test_pods_get_the_time_that_their_processes_take_to_stop() -> None:
    grace = int(literals()["SHUTDOWN_GRACE_SECONDS"])
    for name in ("cashback-api", "cashback-webhook-intake"):
        before = container(name)["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert PODS[name]["spec"]["terminationGracePeriodSeconds"] > before + grace + 5
    for name in ("cashback-worker-default", "cashback-worker-sync"):
        assert PODS[name]["spec"]["terminationGracePeriodSeconds"] > 2 * grace + 5


def test_pods_run_as_the_images_user_and_write_to_tmp_alone() -> None:
    for name, pod in PODS.items():
        assert pod["spec"]["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert container(name)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert [one["mountPath"] for one in container(name)["volumeMounts"]] == ["/tmp"]  # noqa: S108 - inside the container
        assert not pod["spec"]["automountServiceAccountToken"]
        assert container(name)["resources"].keys() == {"requests", "limits"}
    (feeds,) = PODS["cashback-worker-sync"]["spec"]["volumes"]
    room = int(re.fullmatch(r"(\d+)Gi", feeds["emptyDir"]["sizeLimit"])[1]) * 1024**3  # type: ignore[index]
    assert room > 2 * Settings.model_fields["feed_max_bytes"].default
    assert feeds["emptyDir"].get("medium") is None


def test_services_budgets_and_autoscalers_point_at_pods_that_there_are() -> None:
    for name in (one["metadata"]["name"] for one in of_kind("Deployment")):
        chosen = {"app.kubernetes.io/name": name}
        assert PODS[name]["metadata"]["labels"] == chosen
        assert named("Deployment", name)["spec"]["selector"]["matchLabels"] == chosen
        assert named("PodDisruptionBudget", name)["spec"]["selector"]["matchLabels"] == chosen
        scaler = named("HorizontalPodAutoscaler", name)["spec"]
        assert scaler["scaleTargetRef"]["name"] == name
        assert scaler["minReplicas"] >= 2
        assert "replicas" not in named("Deployment", name)["spec"]
    for service in of_kind("Service"):
        (pod,) = [name for name, pod in PODS.items() if pod["metadata"]["labels"] == service["spec"]["selector"]]
        assert service["spec"]["ports"][0]["targetPort"] in {port["name"] for port in container(pod)["ports"]}
    # The selectors of the policies choose by a label that only the kustomization puts on the pods.
    (label,) = kustomization(FOLDER / "base")["labels"]
    assert label["includeTemplates"]
    assert label["pairs"] == {"app.kubernetes.io/part-of": "cashback"}


def test_the_stated_connection_budget_is_that_of_the_settings() -> None:
    stated = (FOLDER / "base" / "kustomization.yaml").read_text()
    most = {one["metadata"]["name"]: one["spec"]["maxReplicas"] for one in of_kind("HorizontalPodAutoscaler")}
    api = sum(int(literals()[f"DB_{name}"]) for name in ("POOL_SIZE", "MAX_OVERFLOW", "READ_POOL_SIZE"))
    worker = 2 * int(literals()["DB_WORKER_POOL_SIZE"])
    web = most["cashback-api"] + most["cashback-webhook-intake"]
    jobs = most["cashback-worker-default"] + most["cashback-worker-sync"]
    assert f"= {web * api + jobs * worker} connections" in stated


def test_the_outside_reaches_every_route_but_probes_and_metrics() -> None:
    (ingress,) = of_kind("Ingress")
    rules = ingress["spec"]["rules"][0]["http"]["paths"]

    def service_of(path: str) -> str | None:
        fitting = [
            rule
            for rule in rules
            if path == rule["path"] or (rule["pathType"] == "Prefix" and path.startswith(f"{rule['path']}/"))
        ]
        longest = max(fitting, key=lambda rule: len(rule["path"]), default=None)
        return longest and str(longest["backend"]["service"]["name"])

    reached = {path: service_of(path) for path in paths()}
    assert {path for path, service in reached.items() if service is None} == INSIDE_ONLY
    intake = {path for path, service in reached.items() if service == "cashback-webhook-intake"}
    assert intake == {"/v1/webhooks/{source_key}"}
    for rule in rules:
        assert named("Service", rule["backend"]["service"]["name"])["spec"]["ports"][0]["name"] == "http"


def test_patches_of_the_example_fit_what_they_change() -> None:
    for patch in kustomization(FOLDER / "overlays" / "example")["patches"]:
        target = named(patch["target"]["kind"], patch["target"]["name"])
        for step in yaml.safe_load(patch["patch"]):
            place: Any = target
            for part in step["path"].strip("/").split("/"):
                place = place[int(part)] if isinstance(place, list) else place[part]
            assert isinstance(place, str)


def known_metrics() -> dict[str, set[str]]:
    """Each sample's name with its labels: those of the code, and those that /metrics measures when asked."""
    known: dict[str, set[str]] = {}
    for one in vars(metrics).values():
        if hasattr(one, "_labelnames") and hasattr(one, "_name"):
            for suffix in ("", "_total", "_count", "_sum", "_bucket"):
                known[f"{one._name}{suffix}"] = {*one._labelnames, "le"}
    source = (ROOT / "app" / "routers" / "health.py").read_text()
    for call in re.findall(r"Gauge\((.*?)registry=registry", source, re.DOTALL):
        texts = re.findall(r'"((?:[^"\\]|\\.)*)"', call)
        if texts:
            known[texts[0]] = set(texts[2:])
    for name in re.findall(r'\(\s*"(payouts_\w+)"', source):
        known.setdefault(name, set())
    return known


def expressions() -> Iterator[str]:
    for rule in named("PrometheusRule", "cashback")["spec"]["groups"][0]["rules"]:
        yield rule["expr"]
    for panel in json.loads((FOLDER / "monitoring" / "dashboard.json").read_text())["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


def test_alarms_and_dashboard_ask_for_metrics_and_labels_that_there_are() -> None:
    known = known_metrics()
    functions = {"max", "min", "sum", "rate", "increase", "topk", "histogram_quantile", "by"}
    # What Prometheus itself adds to each sample.
    added = {"pod", "le", "instance"}
    for expression in expressions():
        labels = set(re.findall(r"[{,]\s*(\w+)=", expression))
        for group in re.findall(r"by \(([^)]*)\)", expression):
            labels |= {name.strip() for name in group.split(",")}
        bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|by \([^)]*\)", "", expression)
        names = set(re.findall(r"[a-z_]{3,}", bare)) - functions
        assert names, expression
        assert names <= set(known), expression
        assert labels <= added | {label for name in names for label in known[name]}, expression


def test_every_alarm_says_how_bad_it_is_and_what_to_do() -> None:
    rules = named("PrometheusRule", "cashback")["spec"]["groups"][0]["rules"]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
