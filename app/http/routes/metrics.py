"""``GET /metrics``, for Prometheus."""

import re
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from app.http.policy import Access, policy
from app.http.problems import problems
from app.http.service import Service
from app.serving.errors import Unauthorized

FORMATS: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            form: {"schema": {"type": "string"}}
            for form in ("text/plain", "application/openmetrics-text")
        }
    }
}
# Published versions; `choose_encoder` would label its answer with any other version, too.
VERSIONS = {"text/plain": {"", "0.0.4", "1.0.0"}, "application/openmetrics-text": {"", "1.0.0"}}
WEIGHT = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?", re.ASCII)


def router(service: Service) -> APIRouter:
    routes = APIRouter(tags=["metrics"])
    access = Access.KEY if service.settings.metrics_need_key else Access.OPEN

    @routes.get(
        "/metrics",
        response_class=PlainTextResponse,
        responses={**FORMATS, **problems(Unauthorized)},
    )
    @policy(access=access, routine=True)
    async def metrics(request: Request) -> Response:
        """All metrics, as Prometheus text or OpenMetrics, by the Accept header."""
        accept = ",".join(request.headers.getlist("accept"))
        text, media_type = await service.metrics.exposition(preferred(accept))
        return Response(text, headers={"Content-Type": media_type, "Vary": "Accept"})

    return routes


def preferred(accept: str) -> str:
    """The supported media range with the greatest weight in ``Accept``.

    `choose_encoder` alone ignores weights and letter case, and raises `TypeError` for versions that
    are not numbers.
    """
    return max(map(_parse, accept.lower().split(",")), key=lambda parsed: parsed[0])[1]


def _parse(media_range: str) -> tuple[float, str]:
    """The weight, 0 if the media range is not supported, and the normalised text."""
    name, *parameters = (part.strip() for part in media_range.split(";"))
    options = dict(parameter.partition("=")[::2] for parameter in parameters)
    version, weight = options.get("version", "").strip('"'), options.get("q", "1")
    if version not in VERSIONS.get(name, ()) or not WEIGHT.fullmatch(weight) or not float(weight):
        return 0.0, ""
    return float(weight), f"{name};version={version};escaping={options.get('escaping', '')}"
