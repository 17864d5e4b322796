"""Messages of the operating system about failed connections."""

import os
import socket
import ssl


def reason_of(error: OSError) -> str | None:
    """The message, starting in lower case; ``None`` if the error has none."""
    if isinstance(error, socket.gaierror | ssl.SSLError):  # their ``errno`` is not an OS error
        reason = error.strerror
    else:
        reason = os.strerror(error.errno) if error.errno else None
    return reason and reason[0].lower() + reason[1:]
