"""A Ray cluster of two cores on this machine, whose processes all end with it."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.server_process import free_port, wait_for

from .library import context, ray, schema, serve

OBJECT_STORE = 100 * 2**20  # bytes, nearly the least that Ray accepts


@contextmanager
def running_ray() -> Iterator[None]:
    """A cluster to which this process is connected."""
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as path:
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE,
            log_to_driver=False,
            _temp_dir=path,
        )
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def running_serve() -> Iterator[int]:
    """Ray Serve on a cluster; yields the port of its proxy."""
    port = free_port()
    with running_ray():
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        yield port
        serve.shutdown()  # type: ignore[no-untyped-call]


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
