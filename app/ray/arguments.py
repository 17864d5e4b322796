"""The arguments of the application and the configuration of running replicas."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.config.settings import Settings, SettingsError, parse_settings

# Settings of the plain server, with the part of Ray that replaces each.
REPLACED = {
    "host": "http_options",
    "port": "http_options",
    "head_timeout_s": "the proxy of Ray Serve",
    "keep_alive_timeout_s": "http_options",
    "http_workers": "replicas",
    "engines": "replicas",
    "drain_delay_s": "the router of Ray Serve",
    "cloud": "the routes of the application",
}
LARGEST_BATCH = {"cpu": 16, "gpu": 64}  # that the model tries if max_batch_size is not set
BATCHES = 4  # of the largest size: one runs, one is complete, and two are being decoded
STOP_SECONDS = 10  # for the model to end after the last request


class UserConfig(BaseModel):
    """What Ray Serve's ``user_config`` changes in running replicas.

    Attributes:
        checkpoint: replaces the argument of the same name.
        revision: any text; a new one reloads a checkpoint whose file has changed.
    """

    model_config = ConfigDict(extra="forbid")

    checkpoint: str | None = None
    revision: str = ""


class Arguments(BaseModel):
    """Settings by their names, and the resources of the replicas.

    Attributes:
        num_cpus: cores of each replica, which decode and, without a GPU, run the model.
        num_gpus: 1 for replicas with a GPU; two engines never share one.
        min_replicas, max_replicas: limits of the autoscaler.
    """

    model_config = ConfigDict(extra="allow")

    num_cpus: Annotated[int, Field(ge=1)] = 2
    num_gpus: Annotated[int, Field(ge=0, le=1)] = 0
    min_replicas: Annotated[int, Field(ge=1)] = 1
    max_replicas: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(
                f"max_replicas={self.max_replicas} is less than min_replicas={self.min_replicas}"
            )
        try:
            self.read()
        except SettingsError as error:
            raise ValueError(str(error)) from error
        return self

    @property
    def given(self) -> Mapping[str, Any]:
        """The settings among the arguments."""
        return self.model_extra or {}

    def read(self) -> Settings:
        """The settings from the arguments, the environment and ``.env``, in this order.

        Raises:
            SettingsError: one of them cannot be used.
        """
        for name in self.given:
            if name in REPLACED:
                raise SettingsError(f"{name} has no effect behind Ray Serve; see {REPLACED[name]}")
            if name not in Settings.model_fields:
                raise SettingsError(f"{name} is neither a setting nor a resource")
        # Clients address the proxy, whose names are not known here: any host is allowed.
        settings = parse_settings({**self.given, "host": "0.0.0.0"}, str)  # noqa: S104
        if settings.device.startswith("cuda") and not self.num_gpus:
            raise SettingsError(f"device={settings.device} needs num_gpus: 1")
        return settings

    def options(self) -> dict[str, Any]:
        """The options of the deployment."""
        settings = self.read()
        largest = settings.max_batch_size or LARGEST_BATCH["gpu" if self.num_gpus else "cpu"]
        ongoing = min(BATCHES * largest, settings.max_queue_size)
        return {
            "max_ongoing_requests": ongoing,
            "max_queued_requests": settings.max_queue_size,
            "autoscaling_config": {
                "min_replicas": self.min_replicas,
                "max_replicas": self.max_replicas,
                "target_ongoing_requests": max(1, ongoing // 2),
            },
            "ray_actor_options": {
                "num_cpus": self.num_cpus,
                **({"num_gpus": self.num_gpus} if self.num_gpus else {}),
            },
            "graceful_shutdown_wait_loop_s": 0.5,
            "graceful_shutdown_timeout_s": settings.drain_timeout_s + STOP_SECONDS,
            "health_check_period_s": 2,
            "logging_config": {"enable_access_log": False},  # the service has its own
        }
