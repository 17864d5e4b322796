"""``POST /explain``: the attention of the model in one image, as a picture."""

import re

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.http.bodies.body import ImageReader, merge
from app.http.parameters import TIMEOUT_PARAMETER, read_query
from app.http.policy import policy
from app.http.problems import IMAGE_ERRORS, REQUEST_ERRORS, problems
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
        "description": "Attention head, counted from 0, or the mean of all heads.",
        "schema": {
            "anyOf": [{"type": "string", "enum": [MEAN]}, {"type": "integer", "minimum": 0}],
            "default": MEAN,
        },
    },
    TIMEOUT_PARAMETER,
]
PICTURE = {
    "description": "The attention, drawn over the image as the model crops it.",
    "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
}


def router(service: Service) -> APIRouter:
    routes = APIRouter(tags=["predict"])
    pipeline, side_thread = service.pipeline, service.side_thread

    @routes.post(
        "/explain",
        response_class=Response,
        responses={200: PICTURE, **problems(*REQUEST_ERRORS, *IMAGE_ERRORS)},
        openapi_extra={"parameters": PARAMETERS, "requestBody": image_body(ImageToExplain)},
    )
    @policy(admission=True)
    async def explain(request: Request) -> Response:
        """Draw the attention of the class token in the last layer over the image, as a PNG."""
        record: RequestRecord = request.state.record
        query = read_query(request, "head")
        head = parse_head(query.get("head", MEAN), pipeline.served.heads)
        with pipeline.upload() as hold:
            image, parameters = await ImageReader(request, hold, side_thread).one(ImageToExplain)
            if parameters:
                head = parse_head(merge(query, parameters)["head"], pipeline.served.heads)
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
            f"head is {quoted(text, 20)}; it must be {MEAN} or a whole number from 0 to {heads - 1}"
        )
    return int(text)
