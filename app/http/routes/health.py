"""The probes: restart me? route to me? and both with everything else, as JSON."""

from fastapi import APIRouter, Response

from app.http.schemas import Health, Probe, ServedModel
from app.serving.lifecycle import Lifecycle
from app.serving.pipeline import Pipeline


def router(lifecycle: Lifecycle, pipeline: Pipeline) -> APIRouter:
    """The routes, on a lifecycle and a pipeline."""
    routes = APIRouter(tags=["health"])

    @routes.get("/livez", responses={503: {"description": "FAILED: restart me", "model": Probe}})
    async def livez(response: Response) -> Probe:
        """200 while the process should be left alone."""
        response.status_code = 200 if lifecycle.alive else 503
        return Probe(state=lifecycle.state)

    @routes.get("/readyz", responses={503: {"description": "Do not route to me", "model": Probe}})
    async def readyz(response: Response) -> Probe:
        """200 while requests should be routed here."""
        response.status_code = 200 if lifecycle.ready else 503
        return Probe(state=lifecycle.state)

    @routes.get("/healthz")
    async def healthz() -> Health:
        """What is served, by what, and how it is doing. Always 200."""
        info = pipeline.info
        return Health(
            alive=lifecycle.alive,
            ready=lifecycle.ready,
            state=lifecycle.state,
            failure=lifecycle.failure,
            model=ServedModel.model_validate(info) if info else None,
            queue_depth=pipeline.queue_depth,
            images_total=pipeline.images,
            batches_total=pipeline.batches,
        )

    return routes
