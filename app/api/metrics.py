"""``GET /metrics``, for Prometheus."""

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry
from prometheus_client import exposition as plain
from prometheus_client.openmetrics import exposition as openmetrics

from app.api.callers import identify, key_scheme
from app.api.errors import problems
from app.api_keys import ApiKeys
from app.errors import Unauthorized

FORMATS: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            form: {"schema": {"type": "string"}}
            for form in ("text/plain", "application/openmetrics-text")
        }
    }
}


def router(registry: CollectorRegistry, keys: ApiKeys | None) -> APIRouter:
    """The route, on a registry; with ``keys``, for who has one of them."""
    routes = APIRouter(tags=["metrics"], dependencies=key_scheme(keys))

    @routes.get(
        "/metrics",
        response_class=PlainTextResponse,
        responses={**FORMATS, **problems(Unauthorized)},
    )
    async def metrics(request: Request) -> Response:
        """All metrics: in OpenMetrics for who accepts it, else in Prometheus' text format."""
        identify(request, keys)
        form = openmetrics if accepts_openmetrics(request.headers.get("accept", "")) else plain
        return Response(form.generate_latest(registry), media_type=form.CONTENT_TYPE_LATEST)

    return routes


def accepts_openmetrics(accept: str) -> bool:
    """Whether a header ``Accept`` names OpenMetrics 1.0.0, in which alone there are exemplars."""
    for media_range in accept.lower().split(","):
        name, *parameters = (part.strip() for part in media_range.split(";"))
        said = dict(parameter.partition("=")[::2] for parameter in parameters)
        version, weight = said.get("version", "1.0.0").strip('"'), said.get("q", "1")
        if name == "application/openmetrics-text" and version == "1.0.0" and weight.strip("0."):
            return True
    return False
