"""``POST /predict``: one image in, its best classes out; ``POST /predict/batch``: of many."""

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from app.api.body import Part, read_image, read_images
from app.api.callers import key_scheme
from app.api.errors import OF_THE_IMAGE, OF_THE_REQUEST, problem_of, problems
from app.api.parameters import PARAMETERS, parse_top_k
from app.api.schemas import (
    BatchPredictions,
    BatchResult,
    JsonImage,
    Model,
    PredictionRow,
    Predictions,
    body_schema,
)
from app.api.waiting import receive, while_connected
from app.api_keys import ApiKeys
from app.errors import ServiceError, TooManyImages
from app.pipeline import Answer, Pipeline
from app.record import RequestRecord

_BINARY = {"schema": {"type": "string", "format": "binary"}}
REQUEST_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {"file": {"type": "string", "format": "binary"}},
            }
        },
        "application/json": {"schema": body_schema(JsonImage)},
        "image/*": _BINARY,
        "application/octet-stream": _BINARY,
    },
}
BATCH_REQUEST_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {
                    "file": {
                        "type": "array",
                        "minItems": 1,
                        "items": {"type": "string", "format": "binary"},
                    }
                },
            }
        },
    },
}


def router(pipeline: Pipeline, keys: ApiKeys | None) -> APIRouter:
    """The routes, on a pipeline, behind a `Door`; ``keys`` are what is told of in OpenAPI.

    Their functions take the request and return the response: FastAPI need not stand between.
    """
    routes = APIRouter(tags=["predict"], dependencies=key_scheme(keys))

    @routes.post(
        "/predict",
        response_model=Predictions,
        responses=problems(*OF_THE_REQUEST, *OF_THE_IMAGE),
        openapi_extra={"parameters": PARAMETERS, "requestBody": REQUEST_BODY},
    )
    async def predict(request: Request) -> Response:
        """Classify one image: JPEG, PNG, WebP, GIF, BMP or TIFF."""
        return await predict_image(request, pipeline)

    @routes.post(
        "/predict/batch",
        response_model=BatchPredictions,
        responses=problems(*OF_THE_REQUEST, TooManyImages),
        openapi_extra={"parameters": PARAMETERS, "requestBody": BATCH_REQUEST_BODY},
    )
    async def predict_batch(request: Request) -> Response:
        """Classify many images, each part of a form one. An image that cannot be is told so."""
        record: RequestRecord = request.state.record
        top_k = parse_top_k(request.query_params.get("top_k"), pipeline.served.num_classes)
        with pipeline.upload() as hold:
            parts = await receive(record, read_images(request, hold))
            images = [part.content for part in parts]
            answers = await while_connected(
                request, pipeline.predict_many(images, top_k, record.deadline, record.timings)
            )
        answers.raise_if_service_failed()
        predictions = BatchPredictions(
            model=Model.model_validate(answers.model),
            results=[
                _result(part, outcome, record)
                for part, outcome in zip(parts, answers.outcomes, strict=True)
            ],
        )
        return _response(predictions, record)

    return routes


async def predict_image(request: Request, pipeline: Pipeline) -> Response:
    """The answer to a request with one image."""
    record: RequestRecord = request.state.record
    top_k = parse_top_k(request.query_params.get("top_k"), pipeline.served.num_classes)
    with pipeline.upload() as hold:
        image = await receive(record, read_image(request, hold))
        answer = await while_connected(
            request, pipeline.predict(image, top_k, record.deadline, record.timings)
        )
    return _response(Predictions.model_validate(answer), record)


def _response(answer: BaseModel, record: RequestRecord) -> Response:
    return Response(
        answer.model_dump_json(exclude_none=True),
        media_type="application/json",
        headers={"Server-Timing": record.timings.server_timing()},
    )


def _result(part: Part, outcome: Answer | ServiceError, record: RequestRecord) -> BatchResult:
    if isinstance(outcome, Answer):
        rows = [*map(PredictionRow.model_validate, outcome.predictions)]
        return BatchResult(filename=part.filename, predictions=rows)
    return BatchResult(filename=part.filename, error=problem_of(outcome, record))
