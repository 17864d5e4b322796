"""Errors of the model package.

ModelError
├── CheckpointError         a weight file that is missing, corrupt or of the wrong kind
├── ImageError              one image that cannot be classified; the rest of the batch can
│   ├── UnsupportedImage    not one of the supported formats
│   ├── InvalidImage        a supported format that does not decode
│   ├── ImageTooLarge       more pixels than allowed, judged from the header
│   └── InvalidTensor       numbers that are not a normalised image
├── OutOfMemory             a batch does not fit in device memory; a smaller one may
└── DeviceError             the device is lost; restart the process
"""

LONGEST_SHOWN = 80


class ModelError(Exception):
    """Base class of the errors that this package raises on purpose. Messages are fit for users."""


class CheckpointError(ModelError):
    """A weight file that is missing, corrupt or of the wrong kind."""


class ImageError(ModelError):
    """One image that cannot be classified."""


class UnsupportedImage(ImageError):
    """The bytes are not in any of the supported formats."""


class InvalidImage(ImageError):
    """A supported format that does not decode: truncated or corrupt."""


class ImageTooLarge(ImageError):
    """More pixels than allowed, judged from the header before decoding."""


class InvalidTensor(ImageError):
    """Numbers that are not a normalised image."""


class OutOfMemory(ModelError):
    """A batch does not fit in device memory; a smaller one may."""


class DeviceError(ModelError):
    """The device is lost: running another batch would fail too."""


def one_line(text: str) -> str:
    """Text from a file, shortened and made printable for messages and logs."""
    cut = text[:LONGEST_SHOWN] + ("…" if len(text) > LONGEST_SHOWN else "")
    return cut if cut.isprintable() else ascii(cut)[1:-1]


def show(value: object) -> str:
    """A value from a file, shortened to one line for messages."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            return f"'{one_line(value)}'"
        case int() if value.bit_length() > 64:
            return "a number of more than 64 bits"
        case int() | float():
            return f"{value}"
        case list() | tuple() if len(value) <= 3 and all(isinstance(v, int | float) for v in value):
            return f"[{', '.join(map(show, value))}]"
        case list() | tuple():
            return f"a list of {len(value)}"
        case dict():
            return "an object"
    return "of another type"
