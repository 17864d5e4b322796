"""The container contracts of SageMaker and Vertex AI: a port, two routes, a weights directory.

SageMaker: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html
Vertex AI: https://cloud.google.com/vertex-ai/docs/predictions/custom-container-requirements
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from app.config.settings import Settings, SettingsError

Cloud = Literal["sagemaker", "vertex"]

DEFAULT_PORT = 8080  # of both clouds
SAGEMAKER_MODEL = Path("/opt/ml/model")


@dataclass(frozen=True, slots=True)
class Contract:
    """The routes that the cloud uses for health checks and for predictions."""

    cloud: Cloud
    health_route: str
    predict_route: str


def read_contract(settings: Settings, environ: Mapping[str, str]) -> Contract | None:
    """The contract that ``settings`` name, if any; raises `SettingsError` for an invalid route."""
    if settings.cloud is None:
        return None
    if settings.cloud == "sagemaker":
        return Contract(settings.cloud, "/ping", "/invocations")
    routes = []
    for name, default in (("AIP_HEALTH_ROUTE", "/health"), ("AIP_PREDICT_ROUTE", "/predict")):
        route = environ.get(name, default)
        if not route.startswith("/") or set(route) & set("{}?#"):
            raise SettingsError(f"{name}={route}: must be a path, such as {default}")
        routes.append(route)
    return Contract(settings.cloud, *routes)


def follow_cloud(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """Settings with the host, port and checkpoint that the cloud prescribes.

    Raises:
        SettingsError: a variable of the cloud is invalid.
    """
    if settings.cloud is None:
        return settings
    variable = {"sagemaker": "SAGEMAKER_BIND_TO_PORT", "vertex": "AIP_HTTP_PORT"}[settings.cloud]
    port = environ.get(variable, str(DEFAULT_PORT))
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise SettingsError(f"{variable}={port}: must be a port, from 1 to 65535")
    checkpoint = settings.checkpoint
    if settings.cloud == "sagemaker" and checkpoint is None:
        checkpoint = find_weights(SAGEMAKER_MODEL)
    changes = {"host": "0.0.0.0", "port": int(port), "checkpoint": checkpoint}  # noqa: S104
    return settings.model_copy(update=changes)


def find_weights(directory: Path) -> str | None:
    """``directory`` if it holds any file; the loader then finds the weights in it.

    Raises:
        SettingsError: the directory cannot be read.
    """
    try:
        names = [path.name for path in directory.iterdir()]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingsError(f"{directory}: cannot be read: {error.strerror}") from error
    return str(directory) if any(not name.startswith(".") for name in names) else None
