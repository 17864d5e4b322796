"""The interface of a backend, which executes the forward pass, and the options to choose one."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from model.images.preprocess import AnyPixels
from model.scores import Logits


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendOptions:
    """Options of a backend. A device or backend that is named is used, or the choice fails.

    Attributes:
        backend: ``auto``, ``torch`` or ``openvino``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        precision: ``auto``, ``float32``, ``bfloat16``, ``float16``; 32 bits replace 16 that
            give other answers.
        cores: how many cores of the CPU to use.
        streams: how many batches to run side by side; measured if not given.
        serving: whether images are also received, decoded and answered on those cores.
        cache_dir: where compiled models are kept, so that the next start need not compile.
        compile: whether to compile the network with Inductor on a CUDA device.
    """

    backend: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    cores: int = 1
    streams: int | None = None
    serving: bool = False
    cache_dir: Path | None = None
    compile: bool = False


class Backend(Protocol):
    """One way of running one network on one device.

    `open` is called once in each thread that will call `logits`; threads may run side by side.

    Attributes:
        streams: how many threads should call `logits` side by side.
        threads: CPU threads that work on one call.
        largest_batch: the largest batch size worth measuring, in images.
        pads: whether a new batch size is expensive to prepare, so that batches are padded or
            divided to sizes that are ready.
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

        What a batch size needs is prepared by its first call, for bytes and floats alike.

        Raises:
            OutOfMemory: the batch does not fit into the device's memory.
            DeviceError: the device is lost.
        """

    def keep(self, sizes: Collection[int]) -> None:
        """Forget what was prepared for batches of any other size."""


Build = Callable[[int, int], Backend]  # by the number of streams, and of the threads of each
