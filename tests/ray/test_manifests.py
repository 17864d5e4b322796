"""The files in ``deploy/ray`` agree with Ray's schema, with the code and with each other.

KubeRay has no Python package: ``schema.yml`` describes the fields that the manifest uses.
"""

from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from app.config.settings import ENV_PREFIX, Settings
from tests.documents import ROOT
from tests.kubernetes.schemas import check_schema

from .library import Arguments, UserConfig, build, ray, schema

RAY = ROOT / "deploy" / "ray"
CONFIG: dict[str, Any] = yaml.safe_load((RAY / "serve.yaml").read_text())
SERVICE: dict[str, Any] = yaml.safe_load((RAY / "ray-service.yml").read_text())
SCHEMA: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "schema.yml").read_text())
CLUSTER: dict[str, Any] = SERVICE["spec"]["rayClusterConfig"]
(APPLICATION,) = CONFIG["applications"]
PODS = [CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"]]


def containers() -> list[dict[str, Any]]:
    found = [pod["template"]["spec"]["containers"] for pod in PODS]
    return [container for (container,) in found]


def unknown_fields(given: Any, model: Any) -> list[str]:
    """Fields that Ray's schema does not have: Ray itself ignores them."""
    return sorted(set(given) - set(model.model_fields))


def test_the_configuration_satisfies_rays_schema() -> None:
    parsed = schema.ServeDeploySchema.model_validate(CONFIG)
    assert unknown_fields(CONFIG, schema.ServeDeploySchema) == []
    assert unknown_fields(CONFIG["http_options"], schema.HTTPOptionsSchema) == []
    assert unknown_fields(APPLICATION, schema.ServeApplicationSchema) == []
    for deployment in APPLICATION["deployments"]:
        assert unknown_fields(deployment, schema.DeploymentSchema) == []
    assert parsed.applications[0].route_prefix == "/"


def test_the_import_path_takes_the_arguments() -> None:
    assert APPLICATION["import_path"] == f"{build.__module__.rpartition('.')[0]}:{build.__name__}"
    arguments = Arguments.model_validate(APPLICATION["args"])
    built = build(arguments)
    (deployment,) = APPLICATION["deployments"]
    assert deployment["name"] == built._bound_deployment.name
    UserConfig.model_validate(deployment["user_config"])
    for name in APPLICATION["runtime_env"]["env_vars"]:
        assert name.removeprefix(ENV_PREFIX).lower() in Settings.model_fields


def test_the_prefix_is_that_of_the_service() -> None:
    settings = Arguments.model_validate(APPLICATION["args"]).read()
    assert APPLICATION["route_prefix"] == (settings.root_path or "/")


def test_the_proxy_waits_longer_than_the_service() -> None:
    settings = Arguments.model_validate(APPLICATION["args"]).read()
    assert CONFIG["http_options"]["request_timeout_s"] > settings.request_timeout_s


def test_both_files_have_the_same_application() -> None:
    assert yaml.safe_load(SERVICE["spec"]["serveConfigV2"]) == CONFIG


def test_the_service_has_only_documented_fields() -> None:
    check_schema(SERVICE, SCHEMA)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "serveConfig"), ""),
        (("spec", "rayClusterConfig", "workerGroupSpecs", 0, "minReplica"), 1),
        (("spec", "rayClusterConfig", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("spec", "rayClusterConfig", "headGroupSpec", "template", "spec", "container"), []),
    ],
    ids=str,
)
def test_wrong_fields_of_kuberay_are_found(path: tuple[Any, ...], value: Any) -> None:
    part = deepcopy(SERVICE)
    inner: Any = part
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        check_schema(part, SCHEMA)


def test_ports_are_those_of_ray_and_of_the_proxy() -> None:
    head, *workers = [
        {port["name"]: port["containerPort"] for port in container["ports"]}
        for container in containers()
    ]
    serve_port = CONFIG["http_options"]["port"]
    assert head == {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "serve": serve_port}
    assert workers == [{"serve": serve_port}]


def test_the_version_is_the_one_that_is_tested() -> None:
    assert CLUSTER["rayVersion"] == ray.__version__


def test_pods_hold_whole_replicas_and_enough_of_them() -> None:
    arguments = Arguments.model_validate(APPLICATION["args"])
    (workers,) = CLUSTER["workerGroupSpecs"]
    (container,) = workers["template"]["spec"]["containers"]
    cpus = int(container["resources"]["limits"]["cpu"])
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert cpus % arguments.num_cpus == 0
    held = cpus // arguments.num_cpus
    assert workers["minReplicas"] * held >= arguments.min_replicas
    assert workers["maxReplicas"] * held == arguments.max_replicas
    assert CLUSTER["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert len({container["image"] for container in containers()}) == 1


def test_kubernetes_sets_no_variables_of_ours() -> None:
    assert all(pod["template"]["spec"]["enableServiceLinks"] is False for pod in PODS)
