"""``POST /admin/reload``, if an admin token is configured."""

from dataclasses import asdict

from fastapi import APIRouter

from app.http.policy import Access, policy
from app.http.problems import problems
from app.http.schemas import Model, ReloadedModel
from app.http.service import Service
from app.serving.errors import (
    Draining,
    NotReady,
    ReloadFailed,
    ReloadInProgress,
    Unauthorized,
)


def router(service: Service) -> APIRouter:
    routes = APIRouter(tags=["admin"])
    if not service.has_admin_token:
        return routes

    @routes.post(
        "/admin/reload",
        responses=problems(Unauthorized, ReloadInProgress, ReloadFailed, NotReady, Draining),
    )
    @policy(access=Access.ADMIN)
    async def reload_model() -> ReloadedModel:
        """Reload the checkpoint and the API keys; answers when both are in use."""
        replacement = await service.reload()
        replaced = Model.model_validate(replacement.old)
        return ReloadedModel(**asdict(replacement.new), replaced=replaced)

    return routes
