"""Who is asking: the API key of a request."""

from collections.abc import Sequence
from typing import Any

from fastapi import Request, Security
from fastapi.security import HTTPBearer

from app.http.api_keys import ApiKeys


def identify(request: Request, keys: ApiKeys | None) -> None:
    """Note whose key it is, where there are ``keys``; raises `Unauthorized` if it is nobody's."""
    if keys:
        request.state.record.client = keys.name_of(request.headers)


def key_scheme(keys: ApiKeys | None) -> Sequence[Any]:
    """What a route depends on so that OpenAPI tells of the key; it checks nothing."""
    return [Security(HTTPBearer(auto_error=False, description="An API key"))] if keys else []
