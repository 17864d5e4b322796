"""The interface of a backend, which executes the forward pass, and the options to choose one."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from model.images.preprocess import AnyPixels
from model.scores import Logits


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendOptions:
    """Options of a backend. A device or backend that is named explicitly is never replaced.

    Attributes:
        backend: ``auto``, ``torch`` or ``openvino``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        precision: ``auto``, ``float32``, ``bfloat16``, ``float16``; falls back to 32 bits if 16
            bits give different answers. With ``auto``, a quantised checkpoint runs in ``int8``.
        cores: number of CPU cores to use.
        streams: number of batches to run side by side; measured if not given.
        serving: whether the same cores also receive, decode and answer requests.
        cache_dir: directory for compiled models, so that the next start need not compile.
        compile: whether to compile the network with Inductor on a CUDA device.
        deterministic: whether an image's logits must not depend on its batch; see
            `model.backends.determinism`.
        largest_batch: the largest batch that will be used, if that is known.
    """

    backend: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    cores: int = 1
    streams: int | None = None
    serving: bool = False
    cache_dir: Path | None = None
    compile: bool = False
    deterministic: bool = False
    largest_batch: int | None = None


class Backend(Protocol):
    """One way of running one network on one device.

    Each thread that calls `logits` first calls `open` once; threads may run side by side.

    Attributes:
        streams: number of threads that should call `logits` side by side.
        threads: CPU threads per call.
        largest_batch: the largest batch size worth measuring, in images.
        pads: whether new batch sizes are expensive to prepare, so that batches are padded or
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

        The logits are not changed by later calls.
        The first call with a batch size prepares it, for bytes and floats alike.

        Raises:
            OutOfMemory: the batch does not fit in device memory.
            DeviceError: the device is lost.
        """

    def keep(self, sizes: Collection[int]) -> None:
        """Release what was prepared for other batch sizes."""

    def kernels(self, size: int) -> Sequence[str] | None:
        """The kernels that compute a batch of this size, in order; ``None`` if they are unknown."""


def batch_sizes(largest: int) -> tuple[int, ...]:
    """The batch sizes to prepare: powers of two, and the largest itself."""
    powers = (1 << i for i in range(largest.bit_length()))
    return tuple(sorted({*powers, largest}))


Build = Callable[[int, int], Backend]  # takes the number of streams, and of threads per stream
