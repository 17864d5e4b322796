"""The modules under test, imported without the warnings of Ray Serve's own code."""

import os
import secrets
import warnings

# Ray reads these when it is imported. Without a token, it writes one to the home directory.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# With the default of 15, its processes starve on a busy machine.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)

with warnings.catch_warnings():
    warnings.filterwarnings(
        "ignore", "Using extra keyword arguments on `Field`", module=r"ray\.serve\._private\.config"
    )
    import ray
    from ray import serve
    from ray.exceptions import RayActorError, RayTaskError
    from ray.serve import context, schema
    from ray.serve._private.common import ReplicaState

    from app.ray import Arguments, UserConfig, answers, arguments
    from app.ray.application import build, build_with
    from app.ray.replica import Replica
    from app.ray.resources import Resources, apply, assigned
    from app.scoring import cluster

RUNNING = ReplicaState.RUNNING

__all__ = [
    "RUNNING",
    "Arguments",
    "RayActorError",
    "RayTaskError",
    "Replica",
    "Resources",
    "UserConfig",
    "answers",
    "apply",
    "arguments",
    "assigned",
    "build",
    "build_with",
    "cluster",
    "context",
    "ray",
    "schema",
    "serve",
]
