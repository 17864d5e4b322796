"""Liveness and readiness probes, and the state of the service."""

from fastapi import APIRouter, Response

from app.http.policy import Access, policy
from app.http.schemas import Health, Probe
from app.http.service import Service


def router(service: Service) -> APIRouter:
    routes = APIRouter(tags=["health"])
    lifecycle, pipeline = service.lifecycle, service.pipeline
    probe = policy(access=Access.OPEN, routine=True)

    @routes.get(
        "/livez",
        responses={
            503: {"description": "The service has failed and must be restarted", "model": Probe}
        },
    )
    @probe
    async def livez(response: Response) -> Probe:
        """200 unless the service has failed and must be restarted."""
        response.status_code = 200 if lifecycle.alive else 503
        return Probe(state=lifecycle.state)

    @routes.get(
        "/readyz",
        responses={503: {"description": "The service is not ready", "model": Probe}},
    )
    @probe
    async def readyz(response: Response) -> Probe:
        """200 if the service is ready for traffic."""
        response.status_code = 200 if lifecycle.ready else 503
        return Probe(state=lifecycle.state)

    @routes.get("/healthz")
    @probe
    async def healthz() -> Health:
        """The state of the service and its model. Always 200."""
        progress = pipeline.progress
        return Health(
            alive=lifecycle.alive,
            ready=lifecycle.ready,
            state=lifecycle.state,
            failure=lifecycle.failure,
            model=pipeline.info,
            engines=progress.engines,
            http_workers=service.plan.workers,
            http_workers_reason=service.plan.reason,
            queue_depth=progress.queue_depth,
            images_total=progress.images,
            batches_total=progress.batches,
        )

    return routes
