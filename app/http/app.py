"""The ASGI application: routes, middleware and error handlers."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute

from app.config.process_plan import ONE_PROCESS, ProcessPlan
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
    plan: ProcessPlan = ONE_PROCESS,
    environ: Mapping[str, str] = os.environ,
) -> FastAPI:
    """The whole service in one process, as one ASGI application.

    Args:
        load, lifecycle, on_loaded, plan, environ: see `build_service`.

    Raises:
        KeysError: the API key file is invalid.
        SettingsError: another setting is invalid.
    """
    lifecycle = lifecycle or Lifecycle()
    return application(build_service(settings, load, lifecycle, on_loaded, plan, environ))


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
        summary="Image classification with XCiT: send an image, get its most likely classes.",
        lifespan=lifespan,
        openapi_url=None,  # see `app.http.routes.pages`
        redirect_slashes=False,  # a redirect would go to the Host that the client sent
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
    """All routers; routes of a cloud's contract replace others with the same path."""
    routers = [make(service) for make in ROUTERS]
    if service.contract:
        cloud_router = cloud.router(service, service.contract)
        remove_routes(routers, {service.contract.health_route, service.contract.predict_route})
        routers.insert(0, cloud_router)
    return routers


def remove_routes(routers: Sequence[APIRouter], paths: set[str]) -> None:
    for router in routers:
        router.routes[:] = [
            route
            for route in router.routes
            if not (isinstance(route, APIRoute) and route.path in paths)
        ]


def check_root_path(root_path: str, routes: Sequence[BaseRoute]) -> None:
    """Raises `SettingsError` for a prefix that is also the first segment of a route.

    The service would take the segment of such a route for the prefix.
    """
    first = root_path.split("/")[1:2]
    for route in routes:
        if first and isinstance(route, APIRoute) and route.path.split("/")[1:2] == first:
            raise SettingsError(
                f"{ENV_PREFIX}ROOT_PATH={root_path}: /{first[0]} is a route of the service; "
                "choose another prefix"
            )


def describe_access(app: FastAPI, routes: Sequence[BaseRoute], auth: Authenticator) -> None:
    """Declare in the OpenAPI document which operations require credentials."""
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
