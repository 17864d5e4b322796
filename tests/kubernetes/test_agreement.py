"""The manifests agree with the code: settings, ports, probes, memory, hardening and metrics."""

import re
from pathlib import Path
from typing import Any

import pytest

from app.config.process_plan import SPARE_CORES, plan_processes
from app.config.settings import ENV_PREFIX, Settings
from app.http.app import create_app
from app.observability.metrics import Metrics
from app.observability.process_metrics import ProcessesCollector
from app.observability.tracing import FLUSH
from app.serving.errors import rejection_reasons
from app.serving.lifecycle import State
from tests.app.conftest import FakeClassifier, make_settings
from tests.app.test_memory import GIB, parse, total
from tests.documents import ROOT

from .overlays import BASE, BUILT, KSERVE, KUBERNETES, build, container_of, pod_of, variables_of
from .queries import ADAPTER_QUERIES, QUERIES, TARGETS, adapter_rules, hpa_targets

GPU = KUBERNETES / "overlays/gpu"
KEDA = KUBERNETES / "overlays/autoscale-keda"
HPA = KUBERNETES / "overlays/autoscale-hpa"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
STOP_SECONDS = 10  # beyond both drain settings: processes that hang get 5 s, and there is some room

every = pytest.mark.parametrize("directory", BUILT, ids=lambda path: path.name)


def settings_of(directory: Path) -> Settings:
    """The settings that the variables of the container make."""
    given = variables_of(directory)
    names: dict[str, Any] = {
        name.removeprefix(ENV_PREFIX).lower(): value for name, value in given.items()
    }
    assert set(names) <= set(Settings.model_fields)
    return Settings(**names)


@every
def test_the_pod_is_killed_only_after_its_drain(directory: Path) -> None:
    settings, pod = settings_of(directory), pod_of(directory)
    drain = settings.drain_delay_s + settings.drain_timeout_s + FLUSH
    assert pod["terminationGracePeriodSeconds"] >= drain + STOP_SECONDS
    assert pod["enableServiceLinks"] is False, "Kubernetes would set XCIT_PORT"


@every
def test_probes_ask_routes_that_exist_often_enough_for_the_drain(directory: Path) -> None:
    container = container_of(directory)
    paths = {
        name: container[name]["httpGet"]["path"] for name in ("readinessProbe", "livenessProbe")
    }
    assert paths == {"readinessProbe": "/readyz", "livenessProbe": "/livez"}
    assert set(paths.values()) <= set(
        create_app(make_settings(), FakeClassifier).openapi()["paths"]
    )
    probe = container["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] < settings_of(directory).drain_delay_s
    (port,) = container["ports"]
    assert {container[name]["httpGet"]["port"] for name in paths} == {port["name"]}
    assert port["containerPort"] == 8000
    assert "EXPOSE 8000" in DOCKERFILE


@every
def test_the_container_is_as_hardened_as_under_compose(directory: Path) -> None:
    pod, container = pod_of(directory), container_of(directory)
    user = pod["securityContext"]
    assert user["runAsNonRoot"] is True
    assert user["seccompProfile"] == {"type": "RuntimeDefault"}
    assert f"USER {user['runAsUser']}:{user['runAsGroup']}" in DOCKERFILE
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    mounted = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert mounted == {"tmp": "/tmp", "cache": "/cache"}
    assert [each["name"] for each in pod["volumes"]] == ["tmp", "cache"]
    assert pod["volumes"][0]["emptyDir"] == {"medium": "Memory", "sizeLimit": "64Mi"}


@every
def test_the_memory_limit_suffices_for_the_cpus_and_processes(directory: Path) -> None:
    resources = container_of(directory)["resources"]
    assert resources["requests"]["cpu"] == resources["limits"]["cpu"]
    cores = int(resources["limits"]["cpu"])
    workers = plan_processes(settings_of(directory), cores, lambda: 1).workers
    model = (100_000_000, workers, 224) if directory == GPU else ()  # else the bundled one
    needed = total(cores, *model)
    assert needed <= parse(resources["limits"]["memory"]) < needed + GIB


def test_a_pod_with_a_gpu_has_one_engine_and_all_cores_but_two_for_http() -> None:
    limits = container_of(GPU)["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == 1
    cores = int(limits["cpu"])
    plan = plan_processes(settings_of(GPU), cores, lambda: 1, supported=lambda: True)
    assert plan.devices == ("cuda",)
    assert plan.workers == cores - SPARE_CORES == cores - 2


@pytest.mark.parametrize("directory", [path for path in BUILT if path not in (GPU, KSERVE)])
def test_other_pods_have_one_engine_too(directory: Path) -> None:
    cores = int(container_of(directory)["resources"]["limits"]["cpu"])
    plan = plan_processes(settings_of(directory), cores, lambda: 0, supported=lambda: True)
    assert len(plan.devices) == 1


def test_selectors_find_the_pods_and_the_service() -> None:
    parts = build(KEDA)
    labels = parts["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (
        parts["Deployment"]["spec"]["selector"]["matchLabels"],
        parts["Service"]["spec"]["selector"],
        parts["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector == labels
    service, monitor = parts["Service"], parts["ServiceMonitor"]["spec"]
    assert monitor["selector"]["matchLabels"] == service["metadata"]["labels"]
    assert monitor["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    assert monitor["endpoints"][0]["path"] == "/metrics"
    assert service["metadata"]["name"] == "xcit", "the label job of our alerts and queries"


def test_kserve_runs_the_same_container_on_the_files_of_the_uri() -> None:
    ours, theirs = container_of(BASE), container_of(KSERVE)
    same = set(ours) - {"name", "env", "ports"}
    assert {name: ours[name] for name in same} == {name: theirs[name] for name in same}
    assert variables_of(KSERVE) == variables_of(BASE) | {"XCIT_CHECKPOINT": "/mnt/models"}
    parts = build(KSERVE)
    runtime = parts["ClusterServingRuntime"]
    model = parts["InferenceService"]["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    formats = {each["name"] for each in runtime["spec"]["supportedModelFormats"]}
    assert model["modelFormat"]["name"] in formats
    assert theirs["name"] == "kserve-container"


@pytest.mark.parametrize("directory", [KEDA, HPA], ids=lambda path: path.name)
def test_an_autoscaled_deployment_has_no_number_of_replicas(directory: Path) -> None:
    """Otherwise ``kubectl apply`` would reset it."""
    parts = build(directory)
    deployment = parts["Deployment"]
    assert "replicas" not in deployment["spec"]
    scaler = parts.get("ScaledObject") or parts["HorizontalPodAutoscaler"]
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]


def test_both_autoscalers_are_the_same() -> None:
    keda, hpa = build(KEDA)["ScaledObject"]["spec"], build(HPA)["HorizontalPodAutoscaler"]["spec"]
    assert keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == hpa["behavior"]
    assert (keda["minReplicaCount"], keda["maxReplicaCount"]) == (
        hpa["minReplicas"],
        hpa["maxReplicas"],
    )
    assert hpa_targets() == TARGETS
    assert ADAPTER_QUERIES == QUERIES
    assert hpa["minReplicas"] >= 2, "one may be evicted"


def test_scaling_down_waits_for_five_minutes_and_lost_metrics_do_not_count_as_no_load() -> None:
    spec = build(KEDA)["ScaledObject"]["spec"]
    behaviour = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behaviour["scaleDown"]["stabilizationWindowSeconds"] == 300
    fallback = spec["fallback"]
    assert spec["minReplicaCount"] <= fallback["replicas"] <= spec["maxReplicaCount"]
    assert fallback["behavior"] == "currentReplicasIfHigher"
    for trigger in spec["triggers"]:
        assert trigger["metadata"]["ignoreNullValues"] == "false"
        assert trigger["metricType"] == "AverageValue", "others have no fallback in older versions"


def samples() -> set[str]:
    suffixes = {"counter": ("_total",), "info": ("_info",), "histogram": ("_sum", "_count")}
    return {
        f"{family.name}{suffix}"
        for family in Metrics(processes=ProcessesCollector(dict)).registry.collect()
        for suffix in suffixes.get(family.type, ("",))
    }


@pytest.mark.parametrize("name", QUERIES)
def test_scaling_queries_use_only_metrics_and_label_values_that_exist(name: str) -> None:
    query = QUERIES[name]
    assert (used := set(re.findall(r"\b(?:xcit|process)_\w+", query)))
    assert used <= samples()
    assert set(re.findall(r'reason="(.*?)"', query)) <= set(rejection_reasons())
    assert set(re.findall(r'state="(.*?)"', query)) <= set(State)
    selectors = re.findall(r"\b(?:xcit|process)_\w+(\{.*?\})?", query)
    assert all(each.endswith('namespace="default", job="xcit"}') for each in selectors)


def test_rates_cover_several_scrapes() -> None:
    scrape = build(KEDA)["ServiceMonitor"]["spec"]["endpoints"][0]["interval"]
    for query in QUERIES.values():
        for window in re.findall(r"\[(\d+)s\]", query):
            assert int(window) >= 4 * int(scrape.removesuffix("s"))


def test_the_adapter_finds_the_namespace_of_each_metric() -> None:
    for rule in adapter_rules():
        assert rule["resources"]["overrides"] == {"namespace": {"resource": "namespace"}}
        assert rule["seriesQuery"] == 'xcit_state{job="xcit"}'
    named: list[dict[str, Any]] = build(HPA)["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert [each["external"]["metric"]["name"] for each in named] == [
        rule["name"]["as"] for rule in adapter_rules()
    ]
