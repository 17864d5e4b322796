"""kubectl builds every overlay, and each part satisfies its schema."""

import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.documents import blocks

from .overlays import BASE, BUILT, KSERVE, KUBERNETES, OVERLAYS, build, kubectl_version
from .schemas import VERSIONS, check_documented, check_kserve, check_kubernetes

DOCUMENTED = {"ScaledObject", "ServiceMonitor"}
OF_KSERVE = {
    "ClusterServingRuntime": "V1alpha1ClusterServingRuntime",
    "InferenceService": "V1beta1InferenceService",
}
KINDS = {
    "base": {"Deployment", "Service", "PodDisruptionBudget"},
    "gpu": set(),
    "autoscale-keda": {"ScaledObject", "ServiceMonitor"},
    "autoscale-hpa": {"HorizontalPodAutoscaler", "ServiceMonitor"},
    "kserve": set(OF_KSERVE),
}


@pytest.mark.parametrize("directory", BUILT, ids=lambda path: path.name)
def test_kubectl_builds_the_expected_parts(directory: Path) -> None:
    inherited = set() if directory == KSERVE else KINDS["base"]
    assert set(build(directory)) == inherited | KINDS[directory.name]


def test_the_documented_overlay_combines_gpus_and_keda(tmp_path: Path) -> None:
    if kubectl_version() < (1, 21):
        pytest.skip("the guide says that this overlay needs kubectl 1.21")
    (block,) = (b for b in blocks("yaml") if (b.title or "").endswith("kustomization.yml"))
    shutil.copytree(KUBERNETES, tmp_path / "deploy/kubernetes")
    file = tmp_path / str(block.title)
    file.parent.mkdir()
    file.write_text(block.text)
    parts = build(file.parent)
    assert set(parts) == KINDS["base"] | KINDS["autoscale-keda"]
    deployment = parts["Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/xcit-serve:cuda"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "replicas" not in deployment["spec"]
    assert {part["metadata"]["namespace"] for part in parts.values()} == {"default"}


def test_every_directory_is_built_by_an_overlay() -> None:
    assert {path.name for path in OVERLAYS} == KINDS.keys() - {"base"}
    listed = "".join((path / "kustomization.yml").read_text() for path in OVERLAYS)
    for directory in {path.parent for path in KUBERNETES.glob("*/kustomization.yml")}:
        assert f"../../{directory.name}\n" in listed


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("directory", BUILT, ids=lambda path: path.name)
def test_parts_of_kubernetes_satisfy_its_schemas(directory: Path, version: str) -> None:
    parts = [*build(directory).values()]
    own = [part for part in parts if part["kind"] not in DOCUMENTED | OF_KSERVE.keys()]
    assert own or directory == KSERVE
    for part in own:
        check_kubernetes(part, version)


def scaled_object() -> dict[str, Any]:
    return deepcopy(build(KUBERNETES / "overlays/autoscale-keda")["ScaledObject"])


def test_parts_of_keda_and_the_prometheus_operator_have_documented_fields() -> None:
    parts = [part for directory in OVERLAYS for part in build(directory).values()]
    found = [part for part in parts if part["kind"] in DOCUMENTED]
    assert len(found) == 3
    for part in found:
        check_documented(part)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "minReplicas"), 2),
        (("spec", "fallback", "behavior"), "currentReplica"),
        (("spec", "triggers", 0, "metadata", "threshold"), 0.7),
        (("spec", "triggers", 0, "metadata", "ignoreNullValues"), False),
        (("spec", "advanced", "horizontalPodAutoscalerConfig", "behavior", "scaledown"), {}),
    ],
    ids=str,
)
def test_wrong_fields_of_keda_are_found(path: tuple[Any, ...], value: Any) -> None:
    part = scaled_object()
    inner: Any = part
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        check_documented(part)


@pytest.mark.parametrize("kind", OF_KSERVE)
def test_parts_of_kserve_match_the_classes_of_its_package(kind: str) -> None:
    check_kserve(build(KSERVE)[kind], OF_KSERVE[kind])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": {"modelformat": {"name": "xcit"}}}, "V1beta1ModelSpec has no"),
        ({"model": {"runtime": "xcit"}}, "`model_format`, must not be `None`"),
        ({"minReplicas": "2"}, "is not of type int"),
        ({"model": {"modelFormat": {"name": "x"}, "env": [{"nam": "x"}]}}, "'name' is a required"),
    ],
)
def test_wrong_fields_of_kserve_are_found(change: dict[str, Any], told: str) -> None:
    service = deepcopy(build(KSERVE)["InferenceService"])
    service["spec"]["predictor"] |= change
    errors = (AssertionError, ValueError, jsonschema.ValidationError)
    with pytest.raises(errors, match=told):
        check_kserve(service, OF_KSERVE["InferenceService"])


def test_unknown_fields_of_kubernetes_are_found() -> None:
    deployment = deepcopy(build(BASE)["Deployment"])
    deployment["spec"]["template"]["spec"]["terminationGraceSeconds"] = 40
    with pytest.raises(jsonschema.ValidationError, match="terminationGraceSeconds"):
        check_kubernetes(deployment, VERSIONS[-1])
