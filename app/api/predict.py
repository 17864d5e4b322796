"""``POST /predict``: one image in, its best classes out."""

import asyncio
import re
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.api.body import read_image
from app.api.callers import key_scheme
from app.api.door import PATIENCE_HEADER
from app.api.errors import problems
from app.api.schemas import JsonImage, Predictions
from app.api_keys import ApiKeys
from app.errors import (
    BadRequest,
    BodyTooLarge,
    ClientDisconnected,
    DeadlineExceeded,
    Draining,
    ImageTooLarge,
    InternalError,
    InvalidImage,
    InvalidParameter,
    NotReady,
    Overloaded,
    RequestTimeout,
    Unauthorized,
    UnsupportedMediaType,
)
from app.pipeline import Pipeline
from app.record import RequestRecord

Result = TypeVar("Result")

DEFAULT_TOP_K = 5

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
        "application/json": {"schema": JsonImage.model_json_schema()},
        "image/*": _BINARY,
        "application/octet-stream": _BINARY,
    },
}
# Told to OpenAPI alone: what FastAPI does with a declared parameter costs as much as the answer.
PARAMETERS = [
    {
        "name": "top_k",
        "in": "query",
        "description": "How many classes to answer, from 1 to the number of classes.",
        "schema": {"type": "integer", "minimum": 1, "default": DEFAULT_TOP_K},
    },
    {
        "name": PATIENCE_HEADER,
        "in": "header",
        "description": "Milliseconds after which the answer is of no use any more.",
        "schema": {"type": "integer", "minimum": 1},
    },
]


def router(pipeline: Pipeline, keys: ApiKeys | None) -> APIRouter:
    """The route, on a pipeline, behind a `Door`; ``keys`` are what is told of in OpenAPI."""
    routes = APIRouter(tags=["predict"], dependencies=key_scheme(keys))

    @routes.post(
        "/predict",
        response_model=Predictions,
        responses=problems(
            BadRequest,
            InvalidImage,
            Unauthorized,
            RequestTimeout,
            BodyTooLarge,
            ImageTooLarge,
            UnsupportedMediaType,
            InvalidParameter,
            InternalError,
            NotReady,
            Overloaded,
            Draining,
            DeadlineExceeded,
        ),
        openapi_extra={"parameters": PARAMETERS, "requestBody": REQUEST_BODY},
    )
    async def predict(request: Request) -> Response:
        """Classify one image: JPEG, PNG, WebP, GIF, BMP or TIFF."""
        record: RequestRecord = request.state.record
        top_k = parse_top_k(request.query_params.get("top_k"), pipeline.num_classes)
        with pipeline.upload() as hold:
            with record.timings.phase("read"):
                image = await within(record.deadline, read_image(request, hold))
            answer = await while_connected(
                request, pipeline.predict(image, top_k, record.deadline, record.timings)
            )
        return Response(
            Predictions.model_validate(answer).model_dump_json(exclude_none=True),
            media_type="application/json",
            headers={"Server-Timing": record.timings.server_timing()},
        )

    return routes


def parse_top_k(text: str | None, classes: int) -> int:
    """The count a caller wants; by default 5, or all where there are fewer."""
    if text is None:
        return min(DEFAULT_TOP_K, classes)
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not 1 <= int(text) <= classes:
        raise InvalidParameter(f"top_k is {text[:20]!r}; it must be a number from 1 to {classes}")
    return int(text)


async def within(deadline: float, reading: Coroutine[Any, Any, Result]) -> Result:
    """The result of ``reading`` a body; raises `RequestTimeout` if it takes too long."""
    try:
        async with asyncio.timeout_at(deadline):
            return await reading
    except TimeoutError as error:
        raise RequestTimeout("the body did not arrive in time; send it at once") from error


async def while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of ``work``, which is cancelled if the client leaves before it is done."""
    handler = asyncio.current_task()
    assert handler is not None
    left = False

    async def watch() -> None:
        nonlocal left
        while (await request.receive())["type"] != "http.disconnect":
            pass  # the body has been read before
        left = True
        handler.cancel()

    watching = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if not left:
            raise
        handler.uncancel()
        raise ClientDisconnected("the client left before its answer was there") from None
    finally:
        watching.cancel()
