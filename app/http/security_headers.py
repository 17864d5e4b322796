"""Headers that tell a browser what not to do with an answer."""

Headers = list[tuple[bytes, bytes]]

# A page may load its own files and call the service; pictures may be on the page already.
_PAGE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' {pictures}; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)


def _headers(policy: str) -> Headers:
    return [
        (b"content-security-policy", policy.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
    ]


_BY_PATH = {
    "/": _headers(_PAGE.format(pictures="blob:")),
    "/docs": _headers(_PAGE.format(pictures="blob: data:")),  # Swagger UI's icons are data URLs
}
_ELSEWHERE = _headers("default-src 'none'; frame-ancestors 'none'")


def security_headers(path: str) -> Headers:
    """For an answer of the route at ``path``."""
    return _BY_PATH.get(path, _ELSEWHERE)
