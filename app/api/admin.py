"""``POST /admin/reload``, for who has the admin token."""

import hmac
from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request, Security
from fastapi.security import HTTPBearer

from app.api.errors import problems
from app.api.schemas import ServedModel
from app.api_keys import bearer
from app.classifier import ModelInfo
from app.errors import (
    Draining,
    NotReady,
    ReloadFailed,
    ReloadInProgress,
    Unauthorized,
)


def router(reload: Callable[[], Awaitable[ModelInfo]], token: str) -> APIRouter:
    """The route, on what reloads."""
    routes = APIRouter(tags=["admin"], dependencies=[Security(HTTPBearer(auto_error=False))])

    @routes.post(
        "/admin/reload",
        responses=problems(Unauthorized, ReloadInProgress, ReloadFailed, NotReady, Draining),
    )
    async def reload_model(request: Request) -> ServedModel:
        """Load checkpoint and keys again; answers when the new model serves."""
        if not hmac.compare_digest(bearer(request.headers).encode(), token.encode()):
            raise Unauthorized("the admin token is needed: send Authorization: Bearer TOKEN")
        return ServedModel.model_validate(await reload())

    return routes
