"""Listening sockets, and messages when they cannot be opened."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from app.config.settings import SettingsError
from app.server.connection_limit import count_open_files
from app.server.listeners import close_all, open_listeners, url_of

LOOPBACK = ["127.0.0.1", "::1", "[::1]", "localhost"]
ALL = ["0.0.0.0", "::", "[::]"]


@contextmanager
def listening(host: str, port: int = 0) -> Iterator[list[socket.socket]]:
    listeners = open_listeners(host, port)
    try:
        yield listeners
    finally:
        close_all(listeners)


def reach(listener: socket.socket, host: str) -> None:
    address = "::1" if ":" in host else "127.0.0.1"
    socket.create_connection((address, listener.getsockname()[1]), timeout=5).close()


@pytest.mark.parametrize("host", LOOPBACK + ALL)
def test_common_host_notations_are_accepted(host: str) -> None:
    with listening(host) as listeners:
        for listener in listeners:
            reach(listener, listener.getsockname()[0])
        assert url_of(listeners[0]).startswith("http://[" if ":" in host else "http://")


def test_host_with_two_addresses_gets_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
        (
            socket.AF_INET,
            socket.SOCK_STREAM,
            6,
            "",
            ("192.0.2.1", 0),
        ),  # not an address of this machine
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    with listening("both") as listeners:
        ports = {listener.getsockname()[1] for listener in listeners}
        assert len(listeners) == 2
        assert len(ports) == 1


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("no-such-host.invalid", "cannot be resolved; set --host or XCIT_HOST to an address of"),
        ("[::1", "cannot be resolved"),
        ("::1]", "cannot be resolved"),
        ("[]", "the host is empty"),
        ("a b", "cannot be resolved"),
        ("http://localhost", "cannot be resolved"),
        ("localhost:8000", "cannot be resolved"),
        ("a" * 70, "cannot be resolved"),
        ("a..b", "cannot be resolved"),
        ("\u00e4" * 300, "cannot be resolved"),
        ("192.0.2.1", "is not an address of this machine"),
        ("2001:db8::1", "is not an address of this machine"),
    ],
)
def test_foreign_host_is_reported_on_one_line(host: str, message: str) -> None:
    check_refused(host, 0, message)


def check_refused(host: str, port: int, message: str) -> None:
    before = count_open_files()
    with pytest.raises(SettingsError) as raised:
        open_listeners(host, port)
    assert message in str(raised.value)
    assert str(raised.value).isprintable(), "one line"
    assert "XCIT_" in str(raised.value), "what to do"
    assert count_open_files() == before, "no socket is left open"


@pytest.mark.parametrize("host", LOOPBACK + ALL)
def test_port_in_use_is_reported_on_one_line(host: str) -> None:
    with listening(host) as listeners:
        port = listeners[-1].getsockname()[1]
        check_refused(host, port, f"port {port} of {host} is already in use; stop the process")


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EACCES, "no permission to listen on port 80 of 127.0.0.1; choose a port from 1024"),
        (errno.EPERM, "no permission to listen"),
        (errno.EMFILE, os.strerror(errno.EMFILE)),
        (errno.ENOBUFS, os.strerror(errno.ENOBUFS)),
    ],
)
@pytest.mark.parametrize("call", ["bind", "listen"])
def test_socket_error_is_reported_on_one_line(
    monkeypatch: pytest.MonkeyPatch, call: str, number: int, message: str
) -> None:
    """The errors are simulated, as the real ones depend on the user and the machine."""

    class Refusing(socket.socket):
        def bind(self, address: object) -> None:
            if call == "bind":
                raise OSError(number, os.strerror(number))

        def listen(self, backlog: int = 0) -> None:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket, "socket", Refusing)
    check_refused("127.0.0.1", 80, message)
