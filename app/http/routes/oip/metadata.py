"""Metadata, health and statistics routes of the Open Inference Protocol."""

import json
from functools import partial
from importlib.metadata import version as installed_version
from typing import Any

from fastapi import APIRouter, Request, Response

from app.http.policy import Access, ErrorFormat, policy
from app.http.problems import problems
from app.http.routes.oip.models import Models, below_model, signatures
from app.http.routes.oip.outputs import OUTPUTS
from app.http.service import Service
from app.serving.classifier import ModelInfo
from app.serving.errors import Draining, NotReady

EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "statistics")
TRITON_INPUTS = {
    "BYTES": {"data_type": "TYPE_STRING", "format": "FORMAT_NONE"},
    "FP32": {"data_type": "TYPE_FP32", "format": "FORMAT_NCHW"},
}
UNAVAILABLE: dict[int | str, dict[str, Any]] = {503: {"description": "Unavailable"}}

open_policy = partial(policy, access=Access.OPEN, error_format=ErrorFormat.V2)


def add_server_metadata(routes: APIRouter, service: Service, models: Models) -> None:
    lifecycle, pipeline = service.lifecycle, service.pipeline

    @routes.get("")
    @open_policy()
    async def server_metadata() -> dict[str, Any]:
        """The server's name and version, and the protocol extensions that it supports."""
        version = installed_version("xcit-serve")
        return {"name": "xcit-serve", "version": version, "extensions": EXTENSIONS}

    @routes.get("/health/live", responses=UNAVAILABLE)
    @open_policy(routine=True)
    async def server_live(response: Response) -> dict[str, bool]:
        """200 unless the service has failed and must be restarted."""
        response.status_code = 200 if lifecycle.alive else 503
        return {"live": lifecycle.alive}

    @routes.get("/health/ready", responses=UNAVAILABLE)
    @open_policy(routine=True)
    async def server_ready(response: Response) -> dict[str, bool]:
        """200 if the service is ready for traffic."""
        response.status_code = 200 if lifecycle.ready else 503
        return {"ready": lifecycle.ready}

    @routes.post("/repository/index", responses=problems(NotReady, Draining))
    @open_policy()
    async def repository_index() -> list[dict[str, str]]:
        """The models that are served."""
        info = pipeline.served
        state = {"version": info.version, "state": "READY", "reason": ""}
        return [{"name": name, **state} for name in signatures(info)]

    @routes.get("/models/stats", responses=problems(NotReady, Draining))
    @open_policy()
    async def all_statistics() -> dict[str, Any]:
        """The statistics of every model."""
        return {"model_stats": models.all_statistics()}


def add_model_metadata(routes: APIRouter, service: Service, models: Models) -> None:
    max_rows = service.settings.max_queue_size

    @below_model(routes.get, "/ready")
    @open_policy()
    async def model_ready(request: Request) -> dict[str, Any]:
        """200 while the model is served."""
        model, _ = models.find(request)
        return {"name": model.name, "ready": True}

    @below_model(routes.get, "")
    @open_policy()
    async def model_metadata(request: Request) -> dict[str, Any]:
        """Names, types and shapes of the model's inputs and outputs."""
        model, info = models.find(request)
        output_type = {"datatype": "FP32", "shape": [-1, info.num_classes]}
        return {
            "name": model.name,
            "versions": [info.version],
            "platform": info.backend,
            "inputs": [
                {"name": model.input, "datatype": model.datatype, "shape": [-1, *model.shape]}
            ],
            "outputs": [{"name": output, **output_type} for output in OUTPUTS],
            "parameters": temperatures(info),
        }

    @below_model(routes.get, "/config")
    @open_policy()
    async def model_config(request: Request) -> dict[str, Any]:
        """The model's configuration, in Triton's format."""
        model, info = models.find(request)
        kind = "KIND_GPU" if info.device.startswith("cuda") else "KIND_CPU"
        inputs = {"name": model.input, "dims": model.shape, **TRITON_INPUTS[model.datatype]}
        output_type = {"data_type": "TYPE_FP32", "dims": [info.num_classes]}
        return {
            "name": model.name,
            "platform": info.backend,
            "max_batch_size": max_rows,
            "input": [inputs],
            "output": [{"name": output, **output_type} for output in OUTPUTS],
            "dynamic_batching": {"preferred_batch_size": [info.max_batch_size]},
            "instance_group": [{"kind": kind, "count": info.streams}],
            "parameters": {n: {"string_value": str(v)} for n, v in temperatures(info).items()},
        }

    @below_model(routes.get, "/stats")
    @open_policy()
    async def model_statistics(request: Request) -> dict[str, Any]:
        """Counts and durations. Inference and execution counts include all APIs."""
        model, info = models.find(request)
        return {"model_stats": [models.statistics_of(model.name, info)]}


def temperatures(info: ModelInfo) -> dict[str, float | str]:
    """The temperatures of the probabilities as parameters, which are numbers and texts."""
    if not info.gap_temperatures:
        return {"temperature": info.temperature}
    steps = [[*step] for step in info.gap_temperatures]
    return {"temperature": info.temperature, "gap_temperatures": json.dumps(steps)}
