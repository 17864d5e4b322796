"""The web pages: ``/`` to classify images, ``/docs`` to try the API, and ``/openapi.json``.

Swagger UI is served from the package fastapi-swagger, so that no script from another origin runs
where API keys are typed.
"""

import re
from collections.abc import Awaitable, Callable
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from app.http.policy import Access, policy
from app.http.security_headers import NO_PAGE, PAGE, SWAGGER_UI
from app.http.service import Service

DIRECTORY = Path(__file__).parents[1] / "page"
FILES = {
    "/": ("index.html", "text/html", PAGE),
    "/page.css": ("page.css", "text/css", NO_PAGE),
    "/page.js": ("page.js", "text/javascript", NO_PAGE),
    "/icon.svg": ("icon.svg", "image/svg+xml", NO_PAGE),
    "/docs": ("docs.html", "text/html", SWAGGER_UI),
    "/docs.js": ("docs.js", "text/javascript", NO_PAGE),
}
SWAGGER_UI_FOLDER = files("fastapi_swagger") / "resources"
SWAGGER_UI_FILES = {
    "/swagger-ui.css": ("swagger-ui.css", "text/css", NO_PAGE),
    "/swagger-ui.js": ("swagger-ui-bundle.js", "text/javascript", NO_PAGE),
}
REFERENCE = re.compile(rb'\b(href|src)="')


def router(service: Service) -> APIRouter:
    """The routes of the pages.

    References in pages are relative, so that a proxy may publish the service under any path. With a
    known path prefix they are absolute, so that the final slash of the prefix may be omitted.
    """
    routes = APIRouter(include_in_schema=False)
    root_path = service.settings.root_path
    for folder, names in ((DIRECTORY, FILES), (SWAGGER_UI_FOLDER, SWAGGER_UI_FILES)):
        for path, (name, media_type, content_security_policy) in names.items():
            content = (folder / name).read_bytes()
            if root_path and media_type == "text/html":
                content = REFERENCE.sub(rb'\1="%s/' % root_path.encode(), content)
            routes.add_api_route(path, _sending(content, media_type, content_security_policy))

    @routes.get("/openapi.json")
    @policy(access=Access.OPEN)
    async def openapi(request: Request) -> Response:
        document = request.app.openapi()
        servers = {"servers": [{"url": root_path}]} if root_path else {}
        return JSONResponse({**document, **servers})

    return routes


def _sending(
    content: bytes, media_type: str, content_security_policy: str
) -> Callable[[Request], Awaitable[Response]]:
    tag = f'"{sha256(content).hexdigest()}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache"}  # cached, but validated before each use

    @policy(access=Access.OPEN, content_security_policy=content_security_policy)
    async def send(request: Request) -> Response:
        if tag in request.headers.get("If-None-Match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media_type, headers=headers)

    return send
