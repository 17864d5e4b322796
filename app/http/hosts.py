"""The ``Host`` names that the service answers to.

An attacker's domain can resolve to 127.0.0.1 (DNS rebinding), so that scripts of its pages can read
the answers of a local service. The ``Host`` field of such a request still has the domain's name.
"""

import ipaddress
import re
from collections.abc import Iterable

from starlette.datastructures import Headers

from app.config.settings import ENV_PREFIX, SettingsError
from app.observability.record import shorten
from app.serving.errors import MisdirectedRequest

VARIABLE = f"{ENV_PREFIX}ALLOWED_HOSTS"
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
FIELD = re.compile(r"(?P<name>\[[^\[\]]+\]|[^\[\]:]+)(?P<port>:\d*)?")
NAME = re.compile(r"(\*\.)?[\w-]{1,63}(\.[\w-]{1,63})*", re.ASCII)
FORMS = "photos.example.org, *.example.org, an IP address, or * for any"


class AllowedHosts:
    """Refuses requests for other hosts.

    Args:
        names: as `parse_host` returns them; ``None`` allows any.
    """

    def __init__(self, names: Iterable[str] | None) -> None:
        found = set(names or ())
        self._any = names is None or "*" in found
        self._names = {name for name in found if not name.startswith("*.")}
        self._suffixes = tuple(name[1:] for name in found if name.startswith("*."))

    def check(self, headers: Headers, *, by_address: bool) -> None:
        """Raises `MisdirectedRequest` if a ``Host`` field names a host that is not allowed.

        Args:
            by_address: whether any IP address is allowed. Orchestrators send probes and scrapes to
                addresses, and DNS rebinding needs a name.
        """
        if self._any:
            return
        for field in headers.getlist("host"):
            name = host_name(field)
            allowed = name in self._names or name.endswith(self._suffixes)
            if not (allowed or (by_address and is_address(name))):
                raise MisdirectedRequest(
                    f'host "{shorten(field)}" is not allowed; if it is a name of this service, '
                    f"add it to {VARIABLE}"
                )


def allowed_hosts(setting: str, bound_to: str) -> set[str] | None:
    """The allowed names; ``None`` for any.

    Args:
        setting: names, separated by commas. If it is empty, loopback names are allowed on a
            loopback address; on other addresses the service cannot know its names and allows any.
        bound_to: the address that the service listens on.

    Raises:
        SettingsError: a name in the setting is malformed.
    """
    if names := setting.replace(",", " ").split():
        return {parse_host(name) for name in names}
    if is_loopback(bound_to):
        return {*LOOPBACK, host_name(bracketed(bound_to))}
    return None


def parse_host(text: str) -> str:
    """A name of the setting as `host_name` returns it; a port is ignored.

    Raises:
        SettingsError: the name is malformed.
    """
    if text == "*":
        return text
    name = host_name(bracketed(text))
    try:
        name = name if name.isascii() else name.encode("idna").decode()
    except UnicodeError:
        name = ""
    if not (NAME.fullmatch(name) or is_address(name)):
        raise SettingsError(f"{VARIABLE}={text}: expected a host, such as {FORMS}")
    return name


def host_name(field: str) -> str:
    """The normalised host of a ``Host`` field, without port; empty if it is malformed."""
    match = FIELD.fullmatch(field)
    if not match:
        return ""
    name = match["name"].lower().removesuffix(".")
    if name.startswith("[") and is_address(name):
        return f"[{ipaddress.ip_address(name[1:-1])}]"
    return name


def bracketed(host: str) -> str:
    """The host, in brackets if it is an IPv6 address."""
    inner = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    address = f"[{inner}]"
    return address if ":" in host and is_address(address) else host


def is_address(name: str) -> bool:
    """Whether a host is an IPv6 address in brackets or an IPv4 address without."""
    version = 6 if name.startswith("[") else 4
    try:
        return ipaddress.ip_address(name.strip("[]")).version == version
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
