"""``GET /``: a page for people, whose files are read once and sent again only when they changed."""

from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import Response

DIRECTORY = Path(__file__).parents[1] / "page"
FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


def router() -> APIRouter:
    """The routes of the page, which asks the service as any other client does."""
    routes = APIRouter(include_in_schema=False)
    for path, (name, media_type) in FILES.items():
        content = (DIRECTORY / name).read_bytes()
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
