"""Who executes the forward pass."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model.preprocess import Pixels

Scores = NDArray[np.float32]
ClassIds = NDArray[np.int64]


class Backend(Protocol):
    """One way of running one network on one device.

    `open` is called once in each thread that will call `classify`; threads may run side by side.

    Attributes:
        streams: how many threads should call `classify` side by side.
        threads: of the CPU's, that work on one call.
        pads: whether a batch of a new size is dear, so that it pays to fill up to a warm one.
    """

    name: str
    device: str
    precision: str
    streams: int
    threads: int
    pads: bool

    def open(self) -> None:
        """Prepare the calling thread."""

    def classify(self, pixels: Pixels, top_k: int) -> tuple[Scores, ClassIds]:
        """Pixels ``(b, h, w, 3)`` to the best classes: scores and ids ``(b, top_k)``.

        Scores are softmax probabilities, highest first.

        Raises:
            OutOfMemory: the batch does not fit into the device's memory.
            DeviceError: the device is lost.
        """
