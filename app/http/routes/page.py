"""``GET /``, a page for people, and ``GET /docs``, the API as a page to try it on.

Their files are read once, and sent again only when they have changed. Swagger UI's are those of the
package fastapi-swagger: no script comes from elsewhere onto the origin where keys are typed.
"""

import re
from collections.abc import Awaitable, Callable
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import Response

DIRECTORY = Path(__file__).parents[1] / "page"
FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/docs": ("docs.html", "text/html"),
    "/docs.js": ("docs.js", "text/javascript"),
}
SWAGGER_UI = files("fastapi_swagger") / "resources"
SWAGGER_UI_FILES = {
    "/swagger-ui.css": ("swagger-ui.css", "text/css"),
    "/swagger-ui.js": ("swagger-ui-bundle.js", "text/javascript"),
}
REFERENCE = re.compile(rb'\b(href|src)="')


def router(root_path: str = "") -> APIRouter:
    """The routes of the pages, which call the service as any other client does.

    Args:
        root_path: the path prefix, if it is known. References are relative, so a proxy may publish
            the service anywhere; but a page that is asked for without the final slash of its
            directory needs absolute ones.
    """
    routes = APIRouter(include_in_schema=False)
    for folder, names in ((DIRECTORY, FILES), (SWAGGER_UI, SWAGGER_UI_FILES)):
        for path, (name, media_type) in names.items():
            content = (folder / name).read_bytes()
            if root_path and media_type == "text/html":
                content = REFERENCE.sub(rb'\1="%s/' % root_path.encode(), content)
            routes.add_api_route(path, _sending(content, media_type))
    return routes


def _sending(content: bytes, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    tag = f'"{sha256(content).hexdigest()}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache"}  # kept, but never used unasked

    async def send(request: Request) -> Response:
        if tag in request.headers.get("If-None-Match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media_type, headers=headers)

    return send
