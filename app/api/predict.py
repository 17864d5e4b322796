"""``POST /predict``: one image in, its best classes out."""

import asyncio
import re
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from app.api.body import read_image
from app.api.errors import problems
from app.api.schemas import JsonImage, Model, PredictionRow, Predictions
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


def router(pipeline: Pipeline) -> APIRouter:
    """The route, on a pipeline."""
    routes = APIRouter(tags=["predict"])

    @routes.post(
        "/predict",
        response_model=Predictions,
        responses=problems(
            BadRequest,
            InvalidImage,
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
        openapi_extra={"requestBody": REQUEST_BODY},
    )
    async def predict(
        request: Request,
        top_k: Annotated[
            str | None,
            Query(
                description="How many classes to answer, from 1 to the number of classes.",
                json_schema_extra={"type": "integer", "minimum": 1, "default": DEFAULT_TOP_K},
            ),
        ] = None,
    ) -> Response:
        """Classify one image: JPEG, PNG, WebP, GIF, BMP or TIFF."""
        record: RequestRecord = request.state.record
        info = pipeline.check()
        wanted = parse_top_k(top_k, info.num_classes)
        with record.timings.phase("read"):
            image = await read_image(request)
        rows = await while_connected(request, pipeline.predict(image, wanted, record.timings))
        answer = Predictions(
            model=Model(name=info.name, version=info.version),
            predictions=[PredictionRow.model_validate(row) for row in rows],
        )
        return Response(
            answer.model_dump_json(exclude_none=True),
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


async def while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of ``work``, which is cancelled if the client leaves before it is done."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnect(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnected("the client left before its answer was there")
        return working.result()
    finally:
        leaving.cancel()
        working.cancel()


async def _disconnect(request: Request) -> None:
    """Until the client leaves; its body has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
