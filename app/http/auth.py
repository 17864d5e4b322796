"""Credentials of requests: API keys and the admin token."""

import hmac
from typing import Any

from starlette.datastructures import Headers

from app.http.api_keys import ApiKeys, bearer
from app.http.policy import Access
from app.observability.record import RequestRecord
from app.serving.errors import Unauthorized

SCHEME = "HTTPBearer"  # name of the security scheme in the OpenAPI document


class Authenticator:
    """Checks the credentials that a route's policy requires.

    Args:
        keys: the API keys; without them, routes with `Access.KEY` are open.
        admin_token: without it, no request gets `Access.ADMIN`.
    """

    def __init__(self, keys: ApiKeys | None, admin_token: str | None) -> None:
        self._keys = keys
        self._admin_token = admin_token

    def check(self, access: Access, headers: Headers, record: RequestRecord) -> None:
        """Check credentials and record the client's name; raises `Unauthorized`."""
        if access is Access.KEY and self._keys:
            record.client = self._keys.name_of(headers)
        elif access is Access.ADMIN:
            token = (self._admin_token or "").encode()
            if not (token and hmac.compare_digest(bearer(headers).encode(), token)):
                raise Unauthorized("admin token required: send Authorization: Bearer TOKEN")

    def requirement(self, access: Access) -> list[dict[str, list[str]]]:
        """The security requirement of an operation in OpenAPI; empty if it is open."""
        required = access is Access.ADMIN or (access is Access.KEY and self._keys is not None)
        return [{SCHEME: []}] if required else []


SECURITY_SCHEMES: dict[str, Any] = {
    SCHEME: {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, or the admin token for /admin routes.",
    }
}
