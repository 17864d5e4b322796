"""One image of a source, and the reading of its bytes."""

import stat
from dataclasses import dataclass
from pathlib import Path

from app.serving.errors import BodyTooLarge

# Kinds of failures; the others are the problem types of the service, with underscores.
UNREADABLE = "unreadable"
NO_IMAGE = "no_image"
TOO_LARGE = BodyTooLarge.reason()

RESUME = "run the same command again to resume"


class ScoringError(Exception):
    """A run cannot start or continue; the message is one line."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an image has no scores."""

    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class Record:
    """One image.

    Attributes:
        image: the encoded bytes, the path of a file, or a failure.
        file: name of the archive or table that contains it.
    """

    id: str
    image: bytes | Path | Failure
    file: str | None = None


def as_id(name: str) -> str:
    r"""A name as an id, which must be valid Unicode: an invalid byte becomes ``\udcXX``."""
    return name.encode("utf-8", "backslashreplace").decode()


def read_image(record: Record, max_bytes: int) -> bytes | Failure:
    """The encoded bytes of a record."""
    image = record.image
    if not isinstance(image, Path):
        return image
    try:
        status = image.stat()
        if not stat.S_ISREG(status.st_mode):
            return Failure(UNREADABLE, "not a regular file")
        if status.st_size > max_bytes:
            return too_large(status.st_size, max_bytes)
        return image.read_bytes()
    except OSError as error:
        return Failure(UNREADABLE, error.strerror or str(error))
    except ValueError as error:  # a path with a NUL byte
        return Failure(UNREADABLE, str(error))


def too_large(size: int, max_bytes: int) -> Failure:
    return Failure(TOO_LARGE, f"{size} bytes; the maximum is {max_bytes} (XCIT_MAX_BODY_BYTES)")
