"""All errors of the client.

ClientError
├── InvalidOption         a URL, key or number is not valid; nothing was sent
├── UnreadableImage       no such file, a directory, a wrong array shape; nothing was sent
├── Unreachable           no connection, or it broke before the whole answer arrived
├── TimedOut              connected, but no answer in time
├── UnexpectedAnswer      an answer that does not come from xcit-serve
└── ServiceError          the service answered with a problem document (RFC 9457)
    ├── ImageRefused      400, 413, 415; other images may be fine
    ├── Unauthorized      401
    ├── Unavailable       429, 503; see ``retry_after``
    └── DeadlineExceeded  504
"""


class ClientError(Exception):
    """Base class of all errors.

    Attributes:
        status: HTTP status, if there was an answer.
        retry_after: seconds to wait before a retry, if the answer has the header.
    """

    status: int | None = None
    retry_after: float | None = None


class InvalidOption(ClientError, ValueError):
    """A URL, key or number is not valid."""


class UnreadableImage(ClientError):
    """The image could not be read or encoded."""


class Unreachable(ClientError):
    """No connection, or it broke before the whole answer arrived."""


class TimedOut(ClientError):
    """Connected, but no answer in time."""


class UnexpectedAnswer(ClientError):
    """An answer that does not come from xcit-serve."""

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
    """The API key is missing or invalid."""


class Unavailable(ServiceError):
    """The service is loading, overloaded or draining."""


class DeadlineExceeded(ServiceError):
    """The service could not answer in time."""


def bare(error: ClientError) -> ClientError:
    """The error without traceback and causes, which would keep the request and image in memory."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
