"""``POST /admin/reload``, for who has the admin token."""

import hmac
from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request, Security
from fastapi.security import HTTPBearer

from app.http.api_keys import bearer
from app.http.problems import problems
from app.http.schemas import Model, ReloadedModel, ServedModel
from app.serving.engine_manager import Replacement
from app.serving.errors import (
    Draining,
    NotReady,
    ReloadFailed,
    ReloadInProgress,
    Unauthorized,
)


def router(reload: Callable[[], Awaitable[Replacement]], token: str) -> APIRouter:
    """The route, which calls ``reload`` for requests that show the ``token``."""
    routes = APIRouter(tags=["admin"], dependencies=[Security(HTTPBearer(auto_error=False))])

    @routes.post(
        "/admin/reload",
        responses=problems(Unauthorized, ReloadInProgress, ReloadFailed, NotReady, Draining),
    )
    async def reload_model(request: Request) -> ReloadedModel:
        """Load checkpoint and keys again; answers when both are in use."""
        if not hmac.compare_digest(bearer(request.headers).encode(), token.encode()):
            raise Unauthorized("the admin token is needed: send Authorization: Bearer TOKEN")
        replacement = await reload()
        served = ServedModel.model_validate(replacement.new)
        return ReloadedModel(**served.model_dump(), replaced=Model.model_validate(replacement.old))

    return routes
