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
