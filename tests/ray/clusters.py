"""Applications on a Ray cluster of two cores on this machine."""

from typing import Any

from tests.server_process import wait_for

from .library import context, ray, schema, serve

CORES = 2


def deploy(application: dict[str, Any]) -> None:
    """Deploy an application of a configuration file, as ``serve deploy`` does, and wait for it."""
    config = schema.ServeDeploySchema.model_validate({"applications": [application]})
    client = context._get_global_client()
    assert client
    client.deploy_apps(config)
    wait_for(lambda: is_running(application["name"]), "the application")


def is_running(name: str) -> bool:
    """Whether an application runs as configured; raises if it cannot."""
    found = serve.status().applications[name]
    assert found.status != "DEPLOY_FAILED", found.message
    return found.status == "RUNNING"


def replicas() -> dict[str, str]:
    """The namespaces of the replicas' actors, by name."""
    actors = ray.util.list_named_actors(all_namespaces=True)
    found = {actor["name"]: actor["namespace"] for actor in actors}
    return {name: space for name, space in found.items() if name.startswith("SERVE_REPLICA")}
