"""``GET /metrics``, for Prometheus."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from app.api.callers import identify, key_scheme
from app.api.errors import problems
from app.api_keys import ApiKeys
from app.errors import Unauthorized


def router(registry: CollectorRegistry, keys: ApiKeys | None) -> APIRouter:
    """The route, on a registry; with ``keys``, for who has one of them."""
    routes = APIRouter(tags=["metrics"], dependencies=key_scheme(keys))

    @routes.get("/metrics", response_class=PlainTextResponse, responses=problems(Unauthorized))
    async def metrics(request: Request) -> Response:
        """All metrics, in Prometheus' text format."""
        identify(request, keys)
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return routes
