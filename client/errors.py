"""Every way a request can end without an answer. The text of each says what was wrong.

ClientError
├── InvalidOption         a URL, a key or a number that cannot be used; nothing was sent
├── UnreadableImage       no such file, a directory, an array of another shape; nothing was sent
├── Unreachable           no connection, or one that broke before the answer was whole
├── TimedOut              connected, and not answered in time
├── UnexpectedAnswer      an answer, but none of xcit-serve's
└── ServiceError          what the service says in a problem document (RFC 9457)
    ├── ImageRefused      400, 413, 415  this image; another may do
    ├── Unauthorized      401
    ├── Unavailable       429, 503  not now; see ``retry_after``
    └── DeadlineExceeded  504
"""


class ClientError(Exception):
    """Root of the tree.

    Attributes:
        status: of the answer; ``None`` without one.
        retry_after: seconds until it is worth another try, where the answer says so.
    """

    status: int | None = None
    retry_after: float | None = None


class InvalidOption(ClientError, ValueError):
    """A URL, a key or a number that cannot be used."""


class UnreadableImage(ClientError):
    """What was given is no image that could be sent."""


class Unreachable(ClientError):
    """No connection, or one that broke before the answer was whole."""


class TimedOut(ClientError):
    """Connected, and not answered in time."""


class UnexpectedAnswer(ClientError):
    """An answer, but none that xcit-serve gives."""

    def __init__(self, message: str, status: int, retry_after: float | None = None) -> None:
        super().__init__(message, status, retry_after)
        self.status = status
        self.retry_after = retry_after

    def __str__(self) -> str:
        return str(self.args[0])


class ServiceError(ClientError):
    """A problem document: its members, and the answer's ``Retry-After`` in seconds."""

    def __init__(
        self,
        status: int,
        kind: str,
        title: str,
        detail: str,
        request_id: str,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(status, kind, title, detail, request_id, retry_after)
        self.status: int = status
        self.type = kind
        self.title = title
        self.detail = detail
        self.request_id = request_id
        self.retry_after = retry_after

    def __str__(self) -> str:
        return self.detail


class ImageRefused(ServiceError):
    """This image cannot be classified; another may."""


class Unauthorized(ServiceError):
    """A key is needed, or it is unknown."""


class Unavailable(ServiceError):
    """Not now: loading, full or draining."""


class DeadlineExceeded(ServiceError):
    """The service could not answer in time."""


def bare(error: ClientError) -> ClientError:
    """The error alone: its traceback and causes would keep the request and its image alive."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
