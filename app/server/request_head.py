"""Checks of a request's head: number of fields, size, target and Host."""

import ipaddress
import re
from collections.abc import Sequence

from httptools import HttpParserError

from app.serving.errors import BadRequest, HeadTooLarge, ServiceError

MAX_HEAD_BYTES = 64 * 2**10  # request line and fields; also trailers and chunk extensions
MAX_FIELDS = 100  # in a head, and in the trailers after a body

Fields = list[tuple[bytes, bytes]]

# RFC 3986: an IPv6 address in brackets or a registered name, and an optional port.
_HOST = re.compile(
    rb"(?:\[(?P<address>[\da-fA-F:.]+)\]|(?:[\w\-.~!$&'()*+,;=]|%[\da-fA-F]{2})+)"
    rb"(?::(?P<port>\d{0,5}))?"
)
_ABSOLUTE = re.compile(rb"https?://(?P<authority>[^/?#]+)(?P<rest>.*)", re.IGNORECASE | re.DOTALL)


def head_too_large() -> HeadTooLarge:
    return HeadTooLarge(f"the request line and header fields exceed {MAX_HEAD_BYTES} bytes")


def too_many_fields() -> HeadTooLarge:
    return HeadTooLarge(f"the request has more than {MAX_FIELDS} header or trailer fields")


def check_head(version: str, target: bytes, fields: Fields) -> bytes:
    """Check a request's head and return its target in origin form.

    If the target is in absolute form, its authority replaces Host in ``fields``.

    Args:
        version: the HTTP version, such as ``1.1``.
        target: the target in the request line.
        fields: names in lower case, and values.

    Raises:
        BadRequest: another version of HTTP, a missing, repeated or invalid Host, or a target that
            is neither a path nor an http URL.
        HeadTooLarge: more than `MAX_HEAD_BYTES`.
    """
    if len(target) + sum(len(name) + len(value) for name, value in fields) > MAX_HEAD_BYTES:
        raise head_too_large()
    if version not in ("1.0", "1.1"):
        raise BadRequest(f"HTTP/{version} is not supported; use HTTP/1.1")
    _check_hosts(version, [value for name, value in fields if name == b"host"])
    if target.startswith(b"/") or target == b"*":
        return target
    return _adopt_authority(target, fields)


def declared_length(fields: Fields) -> int:
    """The bytes of the body according to Content-Length, which the parser has checked, or 0."""
    return next((int(value) for name, value in fields if name == b"content-length"), 0)


def head_without_upgrade(method: bytes, target: bytes, version: str, fields: Fields) -> bytes:
    """The head of a request without ``Upgrade``; raises `BadRequest` for CONNECT."""
    if method == b"CONNECT":
        raise BadRequest("CONNECT is not supported; this server is not a proxy")
    lines = b"".join(b"%s: %s\r\n" % field for field in fields if field[0] != b"upgrade")
    return b"%s %s HTTP/%s\r\n%s\r\n" % (method, target, version.encode(), lines)


def _check_hosts(version: str, hosts: Sequence[bytes]) -> None:
    """Require one Host field, which may be empty (RFC 9112, section 3.2)."""
    if len(hosts) > 1:
        raise BadRequest(f"the request has {len(hosts)} Host header fields; send exactly one")
    if not hosts and version != "1.0":
        raise BadRequest("the request has no Host header field; HTTP/1.1 requires one")
    if hosts and hosts[0].strip(b" \t") and not is_host(hosts[0].strip(b" \t")):
        raise BadRequest("the Host header field is invalid; send HOST or HOST:PORT")


def is_host(value: bytes) -> bool:
    """Whether ``value`` is a host and an optional port."""
    found = _HOST.fullmatch(value)
    if not found or int(found["port"] or 0) > 65535:
        return False
    if found["address"] is not None:
        try:
            ipaddress.IPv6Address(found["address"].decode())
        except ValueError:
            return False
    return True


def _adopt_authority(target: bytes, fields: Fields) -> bytes:
    """The path and query of an absolute target; its authority replaces Host."""
    found = _ABSOLUTE.fullmatch(target)
    if not found or not is_host(found["authority"]):
        raise BadRequest("the request target is invalid; send a path, such as /predict")
    fields[:] = [field for field in fields if field[0] != b"host"]
    fields.append((b"host", found["authority"]))
    rest = found["rest"]
    return rest if rest.startswith(b"/") else b"/" + rest


def cause_of(error: HttpParserError) -> ServiceError:
    """The error that a callback raised inside the parser, or one for the parser's own error."""
    if isinstance(error.__context__, ServiceError):
        return error.__context__
    return BadRequest("the request is not valid HTTP/1.1")
