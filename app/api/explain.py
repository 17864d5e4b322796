"""``POST /explain``: one image in, a picture out of where the model looked."""

import re

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.api.body import read_image
from app.api.callers import key_scheme
from app.api.errors import OF_THE_IMAGE, OF_THE_REQUEST, problems
from app.api.parameters import PATIENCE_PARAMETER
from app.api.predict import REQUEST_BODY
from app.api.waiting import receive, while_connected
from app.api_keys import ApiKeys
from app.errors import InvalidParameter
from app.pipeline import Pipeline
from app.record import RequestRecord

MEAN = "mean"
PARAMETERS = [
    {
        "name": "head",
        "in": "query",
        "description": "Of the class attention, from 0, or the mean of all.",
        "schema": {
            "anyOf": [{"type": "string", "enum": [MEAN]}, {"type": "integer", "minimum": 0}],
            "default": MEAN,
        },
    },
    PATIENCE_PARAMETER,
]
PICTURE = {
    "description": "The image as the model crops it, under its attention.",
    "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
}


def router(pipeline: Pipeline, keys: ApiKeys | None) -> APIRouter:
    """The route, on a pipeline, behind a `Door`."""
    routes = APIRouter(tags=["predict"], dependencies=key_scheme(keys))

    @routes.post(
        "/explain",
        response_class=Response,
        responses={200: PICTURE, **problems(*OF_THE_REQUEST, *OF_THE_IMAGE)},
        openapi_extra={"parameters": PARAMETERS, "requestBody": REQUEST_BODY},
    )
    async def explain(request: Request) -> Response:
        """Show what the class token attended to: its last attention over the patches, as a PNG."""
        record: RequestRecord = request.state.record
        head = parse_head(request.query_params.get("head", MEAN), pipeline.served.heads)
        with pipeline.upload() as hold:
            image = await receive(record, read_image(request, hold))
            picture = await while_connected(
                request, pipeline.explain(image, head, record.deadline, record.timings)
            )
        return Response(picture, media_type="image/png")

    return routes


def parse_head(text: str, heads: int) -> int | None:
    """A head's number; ``None`` for the mean of all."""
    if text == MEAN:
        return None
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or int(text) >= heads:
        raise InvalidParameter(
            f"head is {text[:20]!r}; it must be {MEAN} or a number from 0 to {heads - 1}"
        )
    return int(text)
