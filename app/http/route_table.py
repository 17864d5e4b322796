"""The lookup of a request's route and policy."""

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi import Request, Response
from starlette.routing import BaseRoute, Route

from app.http.policy import Access, Policy, policy_of

DirectEndpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """The route of a request.

    Attributes:
        path: the route's path, with parameters in braces, or "unmatched".
        endpoint: the endpoint, if it takes a request and returns a response. Other endpoints, and
            requests that match no route, are left to FastAPI, whose overhead is a tenth of the
            time outside of inference.
    """

    path: str
    policy: Policy
    endpoint: DirectEndpoint | None = None
    path_params: Mapping[str, Any] = field(default_factory=dict)


class RouteTable:
    """Finds routes by method and path.

    Args:
        routes: the routes of the application; the first that matches is used.
    """

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._exact: dict[tuple[str, str], RouteMatch] = {}
        self._patterns: list[tuple[Route, RouteMatch]] = []
        self._routes: list[Route] = []
        for route in routes:
            if not isinstance(route, Route):
                raise TypeError(f"{route!r}: expected a route of one path, found another kind")
            self._add(route)

    def _add(self, route: Route) -> None:
        match = RouteMatch(route.path, policy_of(route.endpoint), direct(route.endpoint))
        self._routes.append(route)
        if route.param_convertors:
            self._patterns.append((route, match))
            return
        for method in route.methods or ():
            self._exact.setdefault((method, route.path), match)

    def find(self, method: str, path: str) -> RouteMatch:
        """The route of a request.

        A request that matches no route, or none with its method, needs no credentials: it is
        answered with 404 or 405.
        """
        if match := self._exact.get((method, path)):
            return match
        for route, match in self._patterns:
            found = route.path_regex.match(path)
            if found and method in (route.methods or ()):
                parameters = {
                    name: route.param_convertors[name].convert(value)
                    for name, value in found.groupdict().items()
                }
                return replace(match, path_params=parameters)
        return self._unmatched(path)

    def methods(self, path: str) -> list[str]:
        """The allowed methods at a path, sorted; with HEAD if GET is allowed."""
        methods = {
            method
            for route in self._routes
            if route.path_regex.match(path)
            for method in route.methods or ()
        }
        return sorted(methods | {"HEAD"} if "GET" in methods else methods)

    def _unmatched(self, path: str) -> RouteMatch:
        """No route, with the error format of the routes with the same first segment."""
        here = [route for route in self._routes if route.path_regex.match(path)]
        siblings = [
            route for route in self._routes if first_segment(route.path) == first_segment(path)
        ]
        declared = policy_of(next(iter([*here, *siblings])).endpoint) if siblings else Policy()
        unguarded = Policy(Access.OPEN, error_format=declared.error_format)
        return RouteMatch(here[0].path if here else "unmatched", unguarded)


def first_segment(path: str) -> str:
    return path.split("/", 2)[1] if path.startswith("/") else ""


def direct(endpoint: Callable[..., Any]) -> DirectEndpoint | None:
    """The endpoint, if it takes a request and nothing else, and returns a response."""
    signature = inspect.signature(endpoint)
    parameters = [parameter.annotation for parameter in signature.parameters.values()]
    return endpoint if parameters == [Request] and signature.return_annotation is Response else None
