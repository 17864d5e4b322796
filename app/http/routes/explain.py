"""``POST /explain``: one image in, a picture of where the model looked out."""

import re

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.http.bodies.body import ImageReader, merge
from app.http.parameters import TIMEOUT_PARAMETER, read_query
from app.http.policy import policy
from app.http.problems import OF_THE_IMAGE, OF_THE_REQUEST, problems
from app.http.quoting import quoted
from app.http.schemas import ImageToExplain, image_body
from app.http.service import Service
from app.http.timeouts import while_connected
from app.observability.record import RequestRecord
from app.serving.errors import InvalidParameter

MEAN = "mean"
PARAMETERS = [
    {
        "name": "head",
        "in": "query",
        "description": "A head of the class attention, counted from 0, or the mean of all heads.",
        "schema": {
            "anyOf": [{"type": "string", "enum": [MEAN]}, {"type": "integer", "minimum": 0}],
            "default": MEAN,
        },
    },
    TIMEOUT_PARAMETER,
]
PICTURE = {
    "description": "The image as the model crops it, under its attention.",
    "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
}


def router(service: Service) -> APIRouter:
    routes = APIRouter(tags=["predict"])
    pipeline, side_thread = service.pipeline, service.side_thread

    @routes.post(
        "/explain",
        response_class=Response,
        responses={200: PICTURE, **problems(*OF_THE_REQUEST, *OF_THE_IMAGE)},
        openapi_extra={"parameters": PARAMETERS, "requestBody": image_body(ImageToExplain)},
    )
    @policy(admission=True)
    async def explain(request: Request) -> Response:
        """Show what the class token attended to: its last attention over the patches, as a PNG."""
        record: RequestRecord = request.state.record
        query = read_query(request, "head")
        head = parse_head(query.get("head", MEAN), pipeline.served.heads)
        with pipeline.upload() as hold:
            image, given = await ImageReader(request, hold, side_thread).one(ImageToExplain)
            if given:
                head = parse_head(merge(query, given)["head"], pipeline.served.heads)
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
            f"head is {quoted(text, 20)}; it must be {MEAN} or a number from 0 to {heads - 1}"
        )
    return int(text)
