"""Inference by the Open Inference Protocol."""

import re
import time

from fastapi import APIRouter, Request, Response

from app.http.bodies.body import read_body
from app.http.bodies.inflation import inflate
from app.http.parameters import TIMEOUT_PARAMETER, read_query
from app.http.policy import ErrorFormat, policy
from app.http.problems import IMAGE_ERRORS, REQUEST_ERRORS
from app.http.quoting import quoted
from app.http.routes.oip.models import Models, below_model
from app.http.routes.oip.outputs import write_response
from app.http.routes.oip.schemas import InferRequest, InferResponse
from app.http.routes.oip.tensors import Inference, Signature, read_inference
from app.http.schemas import PIXEL, body_schema
from app.http.service import Service
from app.http.timeouts import in_time, while_connected
from app.observability.record import RequestRecord
from app.serving.answers import Answers
from app.serving.classifier import ModelInfo
from app.serving.errors import BadRequest, ServiceError, TooManyImages
from app.serving.held_bytes import size_of_all
from app.serving.side_thread import Steps

INFERENCE_ERRORS = (*REQUEST_ERRORS, *IMAGE_ERRORS, TooManyImages)
HEADER_LENGTH = "Inference-Header-Content-Length"
HEADER_LENGTH_PARAMETER = {
    "name": HEADER_LENGTH,
    "in": "header",
    "description": "Bytes of JSON before the binary tensors; 0 if the body is a raw input.",
    "schema": {"type": "integer", "minimum": 0},
}
EXAMPLE = {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [PIXEL]}]}
OPENAPI = {
    "parameters": [HEADER_LENGTH_PARAMETER, TIMEOUT_PARAMETER],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": body_schema(InferRequest), "example": EXAMPLE},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    },
}
CLASSES = 'give an output the parameter {"classification": n} for the best n classes'


def add_inference(routes: APIRouter, service: Service, models: Models) -> None:
    @below_model(
        routes.post,
        "/infer",
        *INFERENCE_ERRORS,
        openapi_extra=OPENAPI,
        response_model=InferResponse,
    )
    @policy(admission=True, error_format=ErrorFormat.V2)
    async def infer(request: Request) -> Response:
        """Classify the rows of a tensor; if one fails, the request fails."""
        record: RequestRecord = request.state.record
        model, info = models.find(request)
        try:
            inference, answers = await classify(request, service, model, info)
            begun = time.monotonic()
            head = InferResponse(
                model_name=model.name,
                model_version=answers.model.version,
                id=inference.id,
                outputs=[],
            )
            content = await service.side_thread.run(
                write_response(head, answers.all(), inference.outputs)
            )
        except ServiceError:
            models.statistics[model.name].fail(record.timings)
            raise
        models.statistics[model.name].succeed(record.timings, time.monotonic() - begun)
        response = to_response(*content)
        response.headers["Server-Timing"] = record.timings.server_timing()
        return response


async def classify(
    request: Request, service: Service, model: Signature, info: ModelInfo
) -> tuple[Inference, Answers]:
    """Parse a request and classify its rows."""
    record: RequestRecord = request.state.record
    settings, pipeline, side_thread = service.settings, service.pipeline, service.side_thread
    read_query(request, instead=CLASSES)
    header_length = parse_header_length(request.headers.get(HEADER_LENGTH))
    encoding = request.headers.get("content-encoding", "")

    def read(body: bytes) -> Steps[Inference]:
        inflated = yield from inflate(body, encoding, settings.max_body_bytes)
        return (
            yield from read_inference(
                inflated, header_length, model, info.num_classes, settings.max_queue_size
            )
        )

    with pipeline.upload() as hold:
        body = await read_body(request, hold, side_thread)
        inference = await in_time(record, side_thread.run(read(body), hold, size=len(body)))
        del body
        hold.set_size(size_of_all(inference.images))
        deadline = min(record.deadline, record.timings.started + inference.timeout)
        answers = await while_connected(
            request,
            pipeline.predict_many(inference.images, inference.top_k, deadline, record.timings),
        )
    return inference, answers


def parse_header_length(text: str | None) -> int | None:
    """The value of ``Inference-Header-Content-Length``; raises `BadRequest`."""
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
        raise BadRequest(
            f"{HEADER_LENGTH} is {quoted(text, 20)}; it must be a whole number of bytes"
        )
    return int(text)


def to_response(header: bytes, binary: bytes) -> Response:
    """JSON alone, or JSON followed by binary tensors."""
    if not binary:
        return Response(header, media_type="application/json")
    return Response(
        header + binary,
        media_type="application/octet-stream",
        headers={HEADER_LENGTH: str(len(header))},
    )
