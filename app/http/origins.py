"""The web pages that may call the service: CORS, and the refusal of requests from other pages.

CORS prevents a page from reading answers, but not from sending requests. A form or a ``no-cors``
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
TENSOR_HEADER = "Inference-Header-Content-Length"  # in requests and answers with binary tensors
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
    "allow_private_network": True,  # for allowed origins
    "max_age": 7200,  # seconds; Chromium's maximum
}


class CrossSiteCheck:
    """Refuses requests from pages of other origins, unless CORS allows the origin.

    Args:
        allowed: origins as `parse_origins` returns them.
    """

    def __init__(self, allowed: Collection[str]) -> None:
        self._any = "*" in allowed
        self._allowed = frozenset(allowed)

    def check(self, record: RequestRecord, headers: Headers) -> None:
        """Raises `CrossSiteRequest`. Only browsers send ``Origin`` and ``Sec-Fetch-Site``."""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if record.method in SAFE or self._any or origin in self._allowed:
            return
        same_site = site in (None, "same-origin", "none")
        if same_site and (site or not origin or is_same_origin(origin, headers)):
            return
        page = f"a page of {shorten(origin)}" if origin else "a page of another site"
        raise CrossSiteRequest(
            f"{page} may not send requests; add its origin to {VARIABLE} to allow it"
        )


def is_same_origin(origin: str, headers: Headers) -> bool:
    """Whether an origin is the service's, by ``Host`` or ``X-Forwarded-Host``.

    ``X-Forwarded-Host`` can be trusted here: no page can set it without a preflight.
    """
    expected, scheme = canonical(origin), origin.partition("://")[0]
    forwarded = headers.get("x-forwarded-host", "").split(",")
    hosts = [*headers.getlist("host"), *(name.strip() for name in forwarded)]
    return expected is not None and any(
        canonical(f"{scheme}://{host}") == expected for host in hosts
    )


def parse_origins(setting: str) -> list[str]:
    """The origins in a setting, as browsers send them; ``*`` means any.

    Raises:
        SettingsError: an origin is malformed.
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
    """An origin in the form that browsers send; ``None`` if it is malformed.

    That is in lower case, without default port and final slash, and with Punycode names.
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
    except ValueError:  # includes UnicodeError
        return None
    if not (host.startswith("[") or NAME.fullmatch(host)):
        return None
    port = str(int(port)) if port else PORTS.get(scheme, "")
    return f"{scheme}://{host}" + (f":{port}" if port != PORTS.get(scheme, "") else "")
