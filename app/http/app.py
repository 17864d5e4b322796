"""The service as one ASGI application: its routes and what every request goes through."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute

from app.config.settings import ENV_PREFIX, Settings, SettingsError
from app.http.auth import SECURITY_SCHEMES, Authenticator
from app.http.hosts import AllowedHosts, allowed_hosts
from app.http.middleware import RequestMiddleware
from app.http.origins import CORS, CrossSiteCheck, parse_origins
from app.http.policy import policy_of
from app.http.problems import add_error_handlers
from app.http.route_table import RouteTable
from app.http.routes import admin, cloud, explain, health, metrics, pages, predict
from app.http.routes.oip import routes as oip
from app.http.service import Service, build_service
from app.serving.classifier import Classifier
from app.serving.lifecycle import Lifecycle

ROUTERS = (
    predict.router,
    explain.router,
    health.router,
    oip.router,
    metrics.router,
    pages.router,
    admin.router,
)


def create_app(
    settings: Settings,
    load: Callable[[], Classifier],
    *,
    lifecycle: Lifecycle | None = None,
    on_loaded: Callable[[], None] = lambda: None,
    environ: Mapping[str, str] = os.environ,
) -> FastAPI:
    """The whole service in one process, as one ASGI application.

    Args:
        load, lifecycle, on_loaded, environ: see `build_service`.

    Raises:
        KeysError, SettingsError: see `build_service` and `application`.
    """
    lifecycle = lifecycle or Lifecycle()
    return application(build_service(settings, load, lifecycle, on_loaded, environ))


def application(service: Service) -> FastAPI:
    """A service as an ASGI application; its parts are in ``state.service``.

    Raises:
        SettingsError: a host, an origin or the path prefix cannot be used.
    """
    settings = service.settings

    def lifespan(_: FastAPI) -> AbstractAsyncContextManager[None]:
        return service.running()

    app = FastAPI(
        title="xcit-serve",
        summary="XCiT image classification: send an image, get its most likely classes.",
        lifespan=lifespan,
        openapi_url=None,  # this, and the pages of the API, are in app.http.routes.pages
        redirect_slashes=False,  # a redirect would lead to the Host that the client chose
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.service = service
    routers = make_routers(service)
    routes = [route for router in routers for route in router.routes]
    check_root_path(settings.root_path, routes)
    describe_access(app, routes, service.auth)
    for router in routers:
        app.include_router(router)
    add_error_handlers(app)
    hosts = allowed_hosts(settings.allowed_hosts, settings.host)
    origins = parse_origins(settings.cors_origins)
    app.add_middleware(
        RequestMiddleware,
        service=service,
        routes=RouteTable(routes),
        hosts=AllowedHosts(hosts),
        cross_site=CrossSiteCheck(origins),
    )
    if origins:
        app.add_middleware(CORSMiddleware, allow_origins=origins, **CORS)
    return app


def make_routers(service: Service) -> list[APIRouter]:
    """Every router; routes of a cloud's contract replace ours with the same path."""
    routers = [make(service) for make in ROUTERS]
    if service.contract:
        of_cloud = cloud.router(service, service.contract)
        remove_routes(routers, {service.contract.health_route, service.contract.predict_route})
        routers.insert(0, of_cloud)
    return routers


def remove_routes(routers: Sequence[APIRouter], paths: set[str]) -> None:
    for router in routers:
        router.routes[:] = [
            route
            for route in router.routes
            if not (isinstance(route, APIRoute) and route.path in paths)
        ]


def check_root_path(root_path: str, routes: Sequence[BaseRoute]) -> None:
    """Refuse a prefix that could be the beginning of a route: raises `SettingsError`.

    Behind a proxy that strips the prefix, such a route would lose its own beginning.
    """
    first = root_path.split("/")[1:2]
    for route in routes:
        if first and isinstance(route, APIRoute) and route.path.split("/")[1:2] == first:
            raise SettingsError(
                f"{ENV_PREFIX}ROOT_PATH={root_path}: /{first[0]} is a route of the service; "
                "choose another prefix"
            )


def describe_access(app: FastAPI, routes: Sequence[BaseRoute], auth: Authenticator) -> None:
    """Say in the OpenAPI document which operations require credentials."""
    requirements = [
        (route, auth.requirement(policy_of(route.endpoint).access))
        for route in routes
        if isinstance(route, APIRoute)
    ]
    for route, requirement in requirements:
        if requirement:
            route.openapi_extra = {**(route.openapi_extra or {}), "security": requirement}
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        if any(requirement for _, requirement in requirements):
            document.setdefault("components", {})["securitySchemes"] = SECURITY_SCHEMES
        return document

    app.openapi = openapi  # type: ignore[method-assign]
