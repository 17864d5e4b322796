"""Headers that tell a browser what not to do with an answer."""

Headers = list[tuple[bytes, bytes]]

# FastAPI's page of the contract: Swagger's scripts from where it takes them, and its own lines.
_DOCS = (
    "default-src 'none'; connect-src 'self'; img-src data: https://fastapi.tiangolo.com; "
    "script-src 'unsafe-inline' https://cdn.jsdelivr.net; "
    "style-src 'unsafe-inline' https://cdn.jsdelivr.net; frame-ancestors 'none'"
)

# The page's own files, the service it asks, and pictures that are on the page already.
_PAGE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)


def _headers(policy: str) -> Headers:
    return [
        (b"content-security-policy", policy.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
    ]


_BY_PATH = {"/": _headers(_PAGE), "/docs": _headers(_DOCS)}
_ELSEWHERE = _headers("default-src 'none'; frame-ancestors 'none'")


def security_headers(path: str) -> Headers:
    """For an answer of the route at ``path``."""
    return _BY_PATH.get(path, _ELSEWHERE)
