"""All errors of requests, with status and problem type, and three internal errors.

ServiceError
├── BadRequest              400  no image in the request, or a malformed request
├── InvalidImage            400  a supported format that cannot be decoded
├── Unauthorized            401  a missing or invalid credential
├── CrossSiteRequest        403  sent by a web page of another origin
├── UnknownModel            404  a model name of the Open Inference Protocol
├── RequestTimeout          408  the head or the body did not arrive in time
├── ReloadInProgress        409
├── BodyTooLarge            413
├── ImageTooLarge           413  too many pixels or too much work, by the file's structure
├── TooManyImages           413  too many images in one request
├── UnsupportedMediaType    415  not a supported image format
├── MisdirectedRequest      421  a host that is not allowed
├── InvalidParameter        422
├── ReloadFailed            422  the new checkpoint cannot be served; the old one still is
├── HeadTooLarge            431  request line and headers
├── ClientDisconnected      499  only in logs and metrics
├── InternalError           500  a defect of the service
├── Unavailable             503  with Retry-After
│   ├── NotReady                 loading, or failed
│   ├── Overloaded
│   └── Draining
└── DeadlineExceeded        504

The internal errors are `StartupError` and `DeviceFailure`, which end the process, and
`OutOfMemory`, after which batches are smaller.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, ClassVar


class ServiceError(Exception):
    """The base class. ``detail`` says what was wrong and what would be right."""

    status: ClassVar[int] = 500
    problem: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"
    headers: Mapping[str, str] = {}

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    def name_image(self, number: int, count: int) -> None:
        """Add the number of the image, of ``count`` in one request, unless the service failed."""
        if count > 1 and self.status < 500:
            self.detail = f"image {number} of {count}, counted from 0: {self.detail}"

    @classmethod
    def reason(cls) -> str:
        """The value of the label ``reason`` in ``xcit_rejected_total``."""
        return cls.problem.replace("-", "_")


class BadRequest(ServiceError):
    status = 400
    problem = "bad-request"
    title = "Bad request"


class Unauthorized(ServiceError):
    status = 401
    problem = "unauthorized"
    title = "Unauthorized"
    headers: Mapping[str, str] = {"WWW-Authenticate": "Bearer"}


class CrossSiteRequest(ServiceError):
    status = 403
    problem = "cross-site-request"
    title = "Cross-site request"


class UnknownModel(ServiceError):
    status = 404
    problem = "unknown-model"
    title = "Unknown model"


class RequestTimeout(ServiceError):
    status = 408
    problem = "request-timeout"
    title = "Request timeout"
    headers: Mapping[str, str] = {"Connection": "close"}


class InvalidImage(ServiceError):
    status = 400
    problem = "invalid-image"
    title = "Invalid image"


class BodyTooLarge(ServiceError):
    status = 413
    problem = "body-too-large"
    title = "Body too large"
    headers: Mapping[str, str] = {"Connection": "close"}  # the rest of the body is not read


class ImageTooLarge(ServiceError):
    status = 413
    problem = "image-too-large"
    title = "Image too large"


class TooManyImages(ServiceError):
    status = 413
    problem = "too-many-images"
    title = "Too many images"


class UnsupportedMediaType(ServiceError):
    status = 415
    problem = "unsupported-media-type"
    title = "Unsupported media type"


class MisdirectedRequest(ServiceError):
    status = 421
    problem = "misdirected-request"
    title = "Misdirected request"


class ReloadInProgress(ServiceError):
    status = 409
    problem = "reload-in-progress"
    title = "Reload in progress"


class ReloadFailed(ServiceError):
    status = 422
    problem = "reload-failed"
    title = "Reload failed"


class InvalidParameter(ServiceError):
    status = 422
    problem = "invalid-parameter"
    title = "Invalid parameter"


class HeadTooLarge(ServiceError):
    status = 431
    problem = "request-header-fields-too-large"
    title = "Request header fields too large"


class ClientDisconnected(ServiceError):
    status = 499
    problem = "disconnected"
    title = "Client disconnected"


class InternalError(ServiceError):
    """A defect of the service. Only the log has the details."""


class Unavailable(ServiceError):
    """A temporary refusal; the client may retry after ``retry_after`` seconds."""

    status = 503

    def __init__(self, detail: str, *, retry_after: int) -> None:
        super().__init__(detail)
        self.retry_after = retry_after
        self.headers = {"Retry-After": str(retry_after)}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the keyword too, for callers in another process."""
        return partial(type(self), retry_after=self.retry_after), self.args, self.__dict__


class NotReady(Unavailable):
    problem = "not-ready"
    title = "Not ready"


class Overloaded(Unavailable):
    problem = "overloaded"
    title = "Overloaded"


class Draining(Unavailable):
    problem = "draining"
    title = "Draining"


class DeadlineExceeded(ServiceError):
    status = 504
    problem = "deadline-exceeded"
    title = "Deadline exceeded"


def rejection_reasons() -> list[str]:
    """All values of the label ``reason``."""

    def leaves(error: type[ServiceError]) -> Iterator[type[ServiceError]]:
        for child in error.__subclasses__():
            yield from leaves(child)
        if not error.__subclasses__():
            yield error

    return sorted(error.reason() for error in leaves(ServiceError))


def drop_tracebacks(error: BaseException | None) -> None:
    """Release the frames of an error and its causes.

    Frames hold the body of their request. If a frame refers to its error, the cycle would keep the
    body until the next garbage collection.
    """
    while error and error.__traceback__:
        error.__traceback__ = None
        drop_tracebacks(error.__cause__)
        error = error.__context__


class StartupError(Exception):
    """The model cannot be loaded; the message is one line."""


class OutOfMemory(Exception):
    """A batch does not fit into the device's memory."""


class DeviceFailure(Exception):
    """The device is lost; the process must be restarted."""
