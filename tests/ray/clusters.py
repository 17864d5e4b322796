"""A Ray cluster of two cores on this machine, whose processes all end with it."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from tests.e2e.conftest import free_port

from .library import ray, serve

OBJECT_STORE = 100 * 2**20  # bytes, nearly the least that Ray accepts


@contextmanager
def running_cluster() -> Iterator[int]:
    """A cluster; yields the port of Ray Serve's proxy."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as path:
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE,
            log_to_driver=False,
            _temp_dir=path,
        )
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            yield port
            serve.shutdown()
        finally:
            ray.shutdown()
