"""What can go wrong on the model's side.

ModelError
├── CheckpointError         a weight file that is missing, broken or not what it should be
├── ImageError              one image that cannot be classified; its neighbours are unharmed
│   ├── UnsupportedImage    none of the formats read here
│   ├── InvalidImage        a known format that does not decode
│   ├── ImageTooLarge       more pixels than allowed, judged from the header
│   └── InvalidTensor       numbers that are no normalised image
├── OutOfMemory             a batch does not fit the device; a smaller one may
└── DeviceError             the device is lost; nothing after it can be trusted
"""

LONGEST_SHOWN = 80


class ModelError(Exception):
    """Root of every error this package raises on purpose. Its text is fit for a user."""


class CheckpointError(ModelError):
    """A weight file that is missing, broken or not what it should be."""


class ImageError(ModelError):
    """One image that cannot be classified."""


class UnsupportedImage(ImageError):
    """The bytes are none of the formats read here."""


class InvalidImage(ImageError):
    """A known format that does not decode: truncated or corrupt."""


class ImageTooLarge(ImageError):
    """More pixels than allowed, judged from the header before any decoding."""


class InvalidTensor(ImageError):
    """Numbers that are no normalised image."""


class OutOfMemory(ModelError):
    """A batch does not fit into the device's memory; a smaller one may."""


class DeviceError(ModelError):
    """The device failed in a way that a new batch cannot mend."""


def one_line(text: str) -> str:
    """A text that a file gave, for a line of a message or a log: short, and printable."""
    cut = text[:LONGEST_SHOWN] + ("…" if len(text) > LONGEST_SHOWN else "")
    return cut if cut.isprintable() else ascii(cut)[1:-1]


def show(value: object) -> str:
    """A value that a file gave, for a message: short, on one line, never a whole structure."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            return f"'{one_line(value)}'"
        case int() if value.bit_length() > 64:
            return "a number of over 64 bits"
        case int() | float():
            return f"{value}"
        case list() | tuple() if len(value) <= 3 and all(isinstance(v, int | float) for v in value):
            return f"[{', '.join(map(show, value))}]"
        case list() | tuple():
            return f"a list of {len(value)}"
        case dict():
            return "an object"
    return "of another type"
