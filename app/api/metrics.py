"""``GET /metrics``, for Prometheus."""

from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest


def router(registry: CollectorRegistry) -> APIRouter:
    """The route, on a registry."""
    routes = APIRouter(tags=["metrics"])

    @routes.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """All metrics, in Prometheus' text format."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return routes
