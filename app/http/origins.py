"""Which pages may call the service from a browser: CORS, and the refusal of all other pages.

CORS keeps a page from reading answers; it does not keep it from sending. A form or a ``no-cors``
fetch of any page can post to a service on the visitor's loopback interface or network.
"""

import ipaddress
import re
from collections.abc import Collection
from typing import Any

from starlette.datastructures import Headers

from app.config.settings import ENV_PREFIX, SettingsError
from app.observability.record import RequestRecord, shorten
from app.serving.errors import CrossSiteRequest

VARIABLE = f"{ENV_PREFIX}CORS_ORIGINS"
ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>\[[0-9a-f:.]+\]|[^\s/?#@:\[\]*]+)"
    r"(:(?P<port>[0-9]{1,5}))?/?",
    re.IGNORECASE,
)
NAME = re.compile(r"[\w-]+(\.[\w-]+)*\.?", re.ASCII)
PORTS = {"http": "80", "https": "443"}
SAFE = {"GET", "HEAD", "OPTIONS"}
TENSOR_HEADER = "Inference-Header-Content-Length"  # of the Open Inference Protocol, both ways
CORS: dict[str, Any] = {  # arguments of Starlette's CORSMiddleware
    "allow_methods": ["GET", "HEAD", "OPTIONS", "POST"],
    "allow_headers": [
        *("Authorization", "Content-Encoding", "If-None-Match", TENSOR_HEADER),
        *("X-API-Key", "X-Request-ID", "X-Request-Timeout-Ms"),
        *("baggage", "traceparent", "tracestate"),
    ],
    "expose_headers": [
        *("Allow", "ETag", TENSOR_HEADER, "Retry-After", "Server-Timing", "WWW-Authenticate"),
        *("X-Request-ID", "traceresponse"),
    ],
    "allow_private_network": True,  # of the origins that are allowed
    "max_age": 7200,  # seconds, the most that Chromium keeps a preflight
}


class CrossSiteCheck:
    """Refuses what pages of other origins send, unless CORS allows the origin.

    Args:
        allowed: origins as `parse_origins` returns them.
    """

    def __init__(self, allowed: Collection[str]) -> None:
        self._any = "*" in allowed
        self._allowed = frozenset(allowed)

    def check(self, record: RequestRecord, headers: Headers) -> None:
        """Raises `CrossSiteRequest`. Clients that are not browsers send neither field."""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if record.method in SAFE or self._any or origin in self._allowed:
            return
        if site in (None, "same-origin", "none") and (site or not origin or own(origin, headers)):
            return
        page = f"a page of {shorten(origin)}" if origin else "a page of another site"
        raise CrossSiteRequest(
            f"{page} may not send requests; {VARIABLE} lists the origins whose pages may"
        )


def own(origin: str, headers: Headers) -> bool:
    """Whether an origin is the service's own, as the client or a proxy names its host.

    ``X-Forwarded-Host`` can be believed: no page can set it without a preflight.
    """
    expected, scheme = canonical(origin), origin.partition("://")[0]
    forwarded = headers.get("x-forwarded-host", "").split(",")
    hosts = [*headers.getlist("host"), *(name.strip() for name in forwarded)]
    return expected is not None and any(
        canonical(f"{scheme}://{host}") == expected for host in hosts
    )


def parse_origins(setting: str) -> list[str]:
    """The origins of a setting as browsers send them; ``*`` stands for any.

    Raises:
        SettingsError: one is not an origin.
    """
    return [_parse(text) for text in setting.replace(",", " ").split()]


def _parse(text: str) -> str:
    origin = text if text == "*" else canonical(text)
    if origin is None:
        raise SettingsError(
            f"{VARIABLE}={text}: expected an origin, such as https://photos.example.org or "
            "http://localhost:3000, without path or wildcard; or * for any"
        )
    return origin


def canonical(text: str) -> str | None:
    """An origin in the one form that browsers send; ``None`` if it is malformed.

    Lower-case, without default port and final slash, names of other scripts in Punycode.
    """
    match = ORIGIN.fullmatch(text)
    if not match or int(match["port"] or 0) > 65535:
        return None
    scheme, host, port = match["scheme"].lower(), match["host"].lower(), match["port"]
    try:
        if host.startswith("["):
            host = f"[{ipaddress.IPv6Address(host[1:-1])}]"
        elif not host.isascii():
            host = host.encode("idna").decode()
    except ValueError:  # UnicodeError is one
        return None
    if not (host.startswith("[") or NAME.fullmatch(host)):
        return None
    port = str(int(port)) if port else PORTS.get(scheme, "")
    return f"{scheme}://{host}" + (f":{port}" if port != PORTS.get(scheme, "") else "")
