"""What the operating system says of a connection that failed."""

import os
import socket
import ssl


def reason_of(error: OSError) -> str | None:
    """In its words, small letters first; ``None`` where it has said nothing."""
    if isinstance(error, socket.gaierror | ssl.SSLError):  # whose numbers are their own
        reason = error.strerror
    else:
        reason = os.strerror(error.errno) if error.errno else None
    return reason and reason[0].lower() + reason[1:]
