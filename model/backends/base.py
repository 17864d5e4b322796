"""Who executes the forward pass."""

from collections.abc import Collection
from typing import Protocol

from model.preprocess import AnyPixels
from model.scores import Logits


class Backend(Protocol):
    """One way of running one network on one device.

    `open` is called once in each thread that will call `logits`; threads may run side by side.

    Attributes:
        streams: how many threads should call `logits` side by side.
        threads: of the CPU's, that work on one call.
        largest_batch: images of the largest that may be worth while, to be measured.
        pads: whether a batch of a new size is dear, so that it pays to make do with warm ones.
    """

    name: str
    device: str
    precision: str
    streams: int
    threads: int
    largest_batch: int
    pads: bool

    def open(self) -> None:
        """Prepare the calling thread."""

    def logits(self, pixels: AnyPixels) -> Logits:
        """Pixels ``(b, h, w, 3)``, bytes or floats of the same range, to logits ``(b, classes)``.

        Raises:
            OutOfMemory: the batch does not fit into the device's memory.
            DeviceError: the device is lost.
        """

    def keep(self, sizes: Collection[int]) -> None:
        """Forget what was prepared for batches of any other size."""
