"""The sockets that the server listens on."""

import errno
import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from app.config.settings import ENV_PREFIX, SettingsError

BACKLOG = 2048  # connections that may wait to be accepted
HOST_SETTING = f"--host or {ENV_PREFIX}HOST"
PORT_SETTING = f"--port or {ENV_PREFIX}PORT"
# Addresses of a host name that this machine does not have are skipped.
ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def open_listeners(host: str, port: int) -> list[socket.socket]:
    """Listen at every address of ``host``, which may be an IPv6 address in brackets.

    Raises:
        SettingsError: no socket can be opened there.
    """
    listeners: list[socket.socket] = []
    absent: OSError | None = None
    for family, address in resolve(host, port):
        try:
            listeners.append(listen(family, (address[0], port, *address[2:])))
        except OSError as error:
            if error.errno not in ABSENT:
                close_all(listeners)
                raise SettingsError(explain(error, host, port)) from error
            absent = error
        else:
            port = port or listeners[0].getsockname()[1]  # the same one at every address
    if not listeners:
        assert absent is not None
        raise SettingsError(explain(absent, host, port)) from absent
    return listeners


def resolve(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    """The address families and socket addresses of a host; raises `SettingsError` without any."""
    name = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not name:
        raise SettingsError(f"the host is empty; set {HOST_SETTING} to an address of this machine")
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise SettingsError(
            f"host {host:.256} cannot be resolved; set {HOST_SETTING} to an address of this "
            "machine, such as 127.0.0.1, or to 0.0.0.0 for all of them"
        ) from error
    return list(dict.fromkeys((int(family), tuple(address)) for family, *_, address in found))


def listen(family: int, address: tuple[Any, ...]) -> socket.socket:
    """Open a listening socket; raises `OSError`."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # on Windows, other processes could take the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)  # noqa: FBT003 - the parameter is positional-only
    except BaseException:
        listener.close()
        raise
    return listener


def explain(error: OSError, host: str, port: int) -> str:
    """A message that says why listening failed, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {host} is already in use; stop the process that uses it, or choose "
            f"another port with {PORT_SETTING}"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"no permission to listen on port {port} of {host}; choose a port from 1024 on with "
            f"{PORT_SETTING}"
        )
    if error.errno in ABSENT:
        return (
            f"host {host} is not an address of this machine; set {HOST_SETTING} to one that is, "
            "or to 0.0.0.0 for all of them"
        )
    reason = os.strerror(error.errno) if error.errno else str(error)
    return f"cannot listen on port {port} of {host}: {reason}; check {HOST_SETTING}, {PORT_SETTING}"


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def duplicate(listener: socket.socket) -> socket.socket:
    """The same socket with another file descriptor."""
    return socket.socket(fileno=os.dup(listener.fileno()))


def accept_all(listeners: Iterable[socket.socket]) -> list[socket.socket]:
    """Accept all waiting connections on non-blocking sockets."""
    found = []
    for listener in listeners:
        with suppress(OSError):  # no connection is left, or too many files are open
            while True:
                found.append(listener.accept()[0])
    return found


def close_all(listeners: Iterable[socket.socket]) -> None:
    for listener in listeners:
        listener.close()
