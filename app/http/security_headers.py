"""Security headers of answers."""

from functools import cache

Headers = list[tuple[bytes, bytes]]

# Values of Content-Security-Policy. A page may load files of this service and call it.
NO_PAGE = "default-src 'none'; frame-ancestors 'none'"
_PAGE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' {images}; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
PAGE = _PAGE.format(images="blob:")
SWAGGER_UI = _PAGE.format(images="blob: data:")  # its icons are data: URLs


@cache
def security_headers(content_security_policy: str) -> Headers:
    """The security headers with a content security policy."""
    return [
        (b"content-security-policy", content_security_policy.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
    ]
