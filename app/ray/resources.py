"""The cores and the GPU that Ray has assigned to a replica."""

from typing import NamedTuple

import ray

from app.config.cpu_quota import usable_cores
from app.config.settings import Settings, SettingsError


class Resources(NamedTuple):
    """The share of a machine that a replica may use.

    Attributes:
        gpus: how many CUDA devices are visible; ``None`` if Ray does not manage them.
        alone: whether the process belongs to the replica.
    """

    cores: int
    gpus: float | None
    alone: bool


def assigned() -> Resources:
    """The resources of this actor; in Ray's local testing mode, those of the machine."""
    if not (ray.is_initialized() and ray.get_runtime_context().get_actor_id()):
        return Resources(usable_cores(), None, alone=False)
    found = ray.get_runtime_context().get_assigned_resources()  # type: ignore[no-untyped-call]
    cores = min(int(found.get("CPU", 0)), usable_cores())
    return Resources(max(1, cores), found.get("GPU", 0), alone=True)


def apply(settings: Settings, resources: Resources) -> Settings:
    """The settings for these resources; raises `SettingsError` if they do not fit."""
    changes: dict[str, object] = {}
    if settings.preprocess_workers is None:
        changes["preprocess_workers"] = resources.cores
    if resources.gpus is not None:
        if resources.gpus not in (0, 1):
            raise SettingsError(
                f"a replica has num_gpus: {resources.gpus:g}; an engine needs a whole GPU, and "
                "uses only one: set it to 1"
            )
        if resources.gpus == 0 and settings.device == "auto":
            changes["device"] = "cpu"
        if resources.gpus == 1 and settings.device == "auto":
            changes["device"] = "cuda"
    return settings.model_copy(update=changes)
