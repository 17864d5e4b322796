"""A free port. This module imports nothing else, because the peers' environments lack the rest."""

import socket


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
