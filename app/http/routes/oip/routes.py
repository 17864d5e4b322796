"""The Open Inference Protocol, version 2: for the clients of Triton and KServe.

One classifier under two names, by what they are given: ``xcit`` takes encoded images, and
``xcit_tensor`` pixels that the caller has decoded, resized and normalised. Both meet with what
comes to ``/predict`` in the same batches. Requests and answers are read and written in
`app.http.routes.oip.tensors`.
"""

import re
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from importlib.metadata import version as installed_version
from types import MappingProxyType
from typing import Any

from fastapi import APIRouter, Request, Response

from app.http.admission_check import Door
from app.http.api_keys import ApiKeys
from app.http.auth import key_scheme
from app.http.bodies.body import read_body
from app.http.bodies.inflation import inflate
from app.http.parameters import PATIENCE_PARAMETER, read_query
from app.http.problems import OF_THE_IMAGE, OF_THE_REQUEST, problems
from app.http.quoting import quoted
from app.http.routes.oip.outputs import OUTPUTS, write_response
from app.http.routes.oip.schemas import InferRequest, InferResponse
from app.http.routes.oip.statistics import Statistics
from app.http.routes.oip.tensors import Inference, Signature, read_inference
from app.http.schemas import PIXEL, body_schema
from app.http.timeouts import in_time, while_connected
from app.observability.record import RequestRecord
from app.serving.classifier import ModelInfo
from app.serving.errors import (
    BadRequest,
    Draining,
    NotReady,
    ServiceError,
    TooManyImages,
    UnknownModel,
)
from app.serving.lifecycle import Lifecycle
from app.serving.pipeline import Pipeline, size_of_all
from app.serving.side_thread import SideThread, Steps

EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "statistics")
HEADER_LENGTH = "Inference-Header-Content-Length"
IN_CONFIG = {
    "BYTES": {"data_type": "TYPE_STRING", "format": "FORMAT_NONE"},
    "FP32": {"data_type": "TYPE_FP32", "format": "FORMAT_NCHW"},
}

NOT_NOW: dict[int | str, dict[str, Any]] = {503: {"description": "Not now"}}
OF_A_MODEL = (UnknownModel, NotReady, Draining)
OF_AN_INFERENCE = (*OF_THE_REQUEST, *OF_THE_IMAGE, TooManyImages)
MODEL = {
    "name": "name",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "example": "xcit",
}
VERSION = {**MODEL, "name": "version", "example": "1"}
CLASSES = 'give an output the parameter {"classification": n} for the best n classes'
LENGTH = {
    "name": HEADER_LENGTH,
    "in": "header",
    "description": "Bytes of JSON before the binary tensors; 0 if the body is the input alone.",
    "schema": {"type": "integer", "minimum": 0},
}
EXAMPLE = {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [PIXEL]}]}
REQUEST_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": body_schema(InferRequest), "example": EXAMPLE},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    },
}


def router(
    pipeline: Pipeline,
    lifecycle: Lifecycle,
    keys: ApiKeys | None,
    door: Door,
    side: SideThread,
    *,
    max_rows: int,
    max_bytes: int,
) -> APIRouter:
    """The routes.

    Args:
        keys: described in OpenAPI.
        door: asked for each inference, when its route is found.
        side: reads large bodies and writes large answers.
        max_rows: in one request.
        max_bytes: of a body, once it is inflated.
    """
    routes = APIRouter(tags=["open inference protocol"], prefix="/v2")
    statistics: dict[str, Statistics] = defaultdict(Statistics)

    def find(request: Request) -> tuple[Signature, ModelInfo]:
        """The model that the path names."""
        name, version = request.path_params["name"], request.path_params.get("version")
        info = pipeline.served
        models = signatures(info)
        if name not in models:
            raise UnknownModel(f"unknown model {quoted(name)}; there are {', '.join(models)}")
        if version not in (None, info.version):
            raise UnknownModel(f"{name} has version {info.version}, and no {quoted(version)}")
        return models[name], info

    @routes.get("")
    async def server_metadata() -> dict[str, Any]:
        """What this server is, and which of the protocol's extensions it has."""
        version = installed_version("xcit-serve")
        return {"name": "xcit-serve", "version": version, "extensions": EXTENSIONS}

    @routes.get("/health/live", responses=NOT_NOW)
    async def server_live(response: Response) -> dict[str, bool]:
        """200 while the process should be left alone."""
        response.status_code = 200 if lifecycle.alive else 503
        return {"live": lifecycle.alive}

    @routes.get("/health/ready", responses=NOT_NOW)
    async def server_ready(response: Response) -> dict[str, bool]:
        """200 while requests should be routed here."""
        response.status_code = 200 if lifecycle.ready else 503
        return {"ready": lifecycle.ready}

    @routes.post("/repository/index", responses=problems(NotReady, Draining))
    async def repository_index() -> list[dict[str, str]]:
        """The models there are."""
        info = pipeline.served
        told = {"version": info.version, "state": "READY", "reason": ""}
        return [{"name": name, **told} for name in signatures(info)]

    @routes.get("/models/stats", responses=problems(NotReady, Draining))
    async def all_statistics() -> dict[str, Any]:
        """Of every model; see the statistics of one."""
        info = pipeline.served
        return {"model_stats": [show_statistics(name, info) for name in signatures(info)]}

    @of_a_model(routes.get, "/ready")
    async def model_ready(request: Request) -> dict[str, Any]:
        """200 while the model answers."""
        model, _ = find(request)
        return {"name": model.name, "ready": True}

    @of_a_model(routes.get, "")
    async def model_metadata(request: Request) -> dict[str, Any]:
        """Names, types and shapes of inputs and outputs."""
        model, info = find(request)
        told = {"datatype": "FP32", "shape": [-1, info.num_classes]}
        return {
            "name": model.name,
            "versions": [info.version],
            "platform": info.backend,
            "inputs": [
                {"name": model.input, "datatype": model.datatype, "shape": [-1, *model.shape]}
            ],
            "outputs": [{"name": output, **told} for output in OUTPUTS],
        }

    @of_a_model(routes.get, "/config")
    async def model_config(request: Request) -> dict[str, Any]:
        """The model's configuration, in Triton's words."""
        model, info = find(request)
        kind = "KIND_GPU" if info.device.startswith("cuda") else "KIND_CPU"
        told = {"data_type": "TYPE_FP32", "dims": [info.num_classes]}
        return {
            "name": model.name,
            "platform": info.backend,
            "max_batch_size": max_rows,
            "input": [{"name": model.input, "dims": model.shape, **IN_CONFIG[model.datatype]}],
            "output": [{"name": output, **told} for output in OUTPUTS],
            "dynamic_batching": {"preferred_batch_size": [info.max_batch_size]},
            "instance_group": [{"kind": kind, "count": info.streams}],
        }

    @of_a_model(routes.get, "/stats")
    async def model_statistics(request: Request) -> dict[str, Any]:
        """Counts and times. Inferences and executions are the classifier's, whoever asked."""
        model, info = find(request)
        return {"model_stats": [show_statistics(model.name, info)]}

    def show_statistics(name: str, info: ModelInfo) -> dict[str, Any]:
        return {
            "name": name,
            "version": info.version,
            "last_inference": statistics[name].last,
            "inference_count": pipeline.images,
            "execution_count": pipeline.batches,
            "inference_stats": statistics[name].durations,
            "batch_stats": [],
        }

    @of_a_model(
        routes.post,
        "/infer",
        *OF_AN_INFERENCE,
        told={"parameters": [LENGTH, PATIENCE_PARAMETER], "requestBody": REQUEST_BODY},
        dependencies=key_scheme(keys),
        response_model=InferResponse,
    )
    async def infer(request: Request) -> Response:
        """Classify the rows of a tensor: all of them, or none."""
        record: RequestRecord = request.state.record
        door.check(request.headers, record)
        model, info = find(request)
        try:
            return await answer(request, model, info, record)
        except ServiceError:
            statistics[model.name].fail(record.timings)
            raise

    async def answer(
        request: Request, model: Signature, info: ModelInfo, record: RequestRecord
    ) -> Response:
        timings = record.timings
        read_query(request, instead=CLASSES)
        header_length = parse_header_length(request.headers.get(HEADER_LENGTH))
        encoding = request.headers.get("content-encoding", "")

        def read(body: bytes) -> Steps[Inference]:
            inflated = yield from inflate(body, encoding, max_bytes)
            return (
                yield from read_inference(
                    inflated, header_length, model, info.num_classes, max_rows
                )
            )

        with pipeline.upload() as hold:
            body = await read_body(request, hold, side)
            asked = await in_time(record, side.run(read(body), hold, size=len(body)))
            del body
            hold.settle(size_of_all(asked.images))
            deadline = min(record.deadline, timings.started + asked.timeout)
            answers = await while_connected(
                request, pipeline.predict_many(asked.images, asked.top_k, deadline, timings)
            )
        begun = time.monotonic()
        head = InferResponse(
            model_name=model.name, model_version=answers.model.version, id=asked.id, outputs=[]
        )
        content = await side.run(write_response(head, answers.all(), asked.outputs))
        statistics[model.name].succeed(timings, time.monotonic() - begun)
        response = to_response(*content)
        response.headers["Server-Timing"] = timings.server_timing()
        return response

    return routes


def of_a_model(
    add: Callable[..., Any],
    path: str,
    *errors: type[ServiceError],
    told: Mapping[str, Any] = MappingProxyType({}),
    **options: Any,
) -> Callable[..., Any]:
    """Adds a handler below a model's name, with and without a version.

    Args:
        add: of a router, for one method.
        told: to OpenAPI, beside the parameters of the path.
    """

    def decorate(handler: Callable[..., Any]) -> Callable[..., Any]:
        for prefix, named in (
            ("/models/{name}", [MODEL]),
            ("/models/{name}/versions/{version}", [MODEL, VERSION]),
        ):
            parameters = [*named, *told.get("parameters", ())]
            add(
                prefix + path,
                responses=problems(*dict.fromkeys((*OF_A_MODEL, *errors))),
                openapi_extra={**told, "parameters": parameters},
                **options,
            )(handler)
        return handler

    return decorate


def signatures(info: ModelInfo) -> dict[str, Signature]:
    """The models by name, of the classifier that is served."""
    pixels = (3, info.image_size, info.image_size)
    models = (
        Signature("xcit", "image", "BYTES", ((1,), ())),
        Signature("xcit_tensor", "input", "FP32", (pixels,)),
    )
    return {model.name: model for model in models}


def parse_header_length(text: str | None) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
        raise BadRequest(f"{HEADER_LENGTH} is {quoted(text, 20)}; it must be a number of bytes")
    return int(text)


def to_response(header: bytes, behind: bytes) -> Response:
    """JSON alone, or with bytes behind it."""
    if not behind:
        return Response(header, media_type="application/json")
    return Response(
        header + behind,
        media_type="application/octet-stream",
        headers={HEADER_LENGTH: str(len(header))},
    )
