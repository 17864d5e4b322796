"""The policy of a route: access, admission, logging and headers.

A route declares its policy next to its path:

    @routes.post("/predict")
    @policy(admission=True)
    async def predict(request: Request) -> Response: ...

A route that declares nothing has the policy `Policy()`: it requires an API key.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from app.http.security_headers import NO_PAGE

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


class Access(Enum):
    """The credentials that a route requires."""

    OPEN = "none"
    KEY = "an API key, where API keys are configured"
    ADMIN = "the admin token"


class ErrorFormat(Enum):
    """The format of error documents."""

    PROBLEM = "RFC 9457"
    V2 = "RFC 9457, with the member `error` that the Open Inference Protocol prescribes"


@dataclass(frozen=True, slots=True)
class Policy:
    """How requests to a route are handled.

    Attributes:
        access: the required credentials.
        admission: whether requests are refused before their body is read if the service is not
            ready, is overloaded, or cannot answer before their deadline.
        routine: whether orchestrators or monitoring poll the route. Its requests are logged at
            DEBUG level, are not traced, and may address the service by IP address.
        error_format: the format of error documents.
        content_security_policy: the value of ``Content-Security-Policy``.
    """

    access: Access = Access.KEY
    admission: bool = False
    routine: bool = False
    error_format: ErrorFormat = ErrorFormat.PROBLEM
    content_security_policy: str = NO_PAGE


GUARDED = Policy()


def policy(**choices: Any) -> Callable[[Endpoint], Endpoint]:
    """Declare the policy of an endpoint, by the attributes of `Policy`."""
    declared = Policy(**choices)

    def declare(endpoint: Endpoint) -> Endpoint:
        endpoint.policy = declared  # type: ignore[attr-defined]
        return endpoint

    return declare


def policy_of(endpoint: Callable[..., Any]) -> Policy:
    """The policy that an endpoint declares, or `GUARDED`."""
    declared: Policy = getattr(endpoint, "policy", GUARDED)
    return declared
