"""PyTorch on an NVIDIA GPU: the forward pass of each batch size recorded as a CUDA graph."""

import threading
import weakref
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from model.backends.torch import device_errors
from model.images.preprocess import AnyPixels
from model.scores import Logits

WARM_UP_PASSES = 3  # libraries choose kernels in the first ones, which must not be recorded


class Graph(Protocol):
    """A recorded pass."""

    def replay(self) -> None: ...


@dataclass(frozen=True, slots=True)
class TransferBuffer:
    """Memory for pixels of one type: ``staged`` is pinned, ``arrived`` is on the device."""

    staged: Tensor
    arrived: Tensor


@dataclass(frozen=True, slots=True)
class Recording:
    """A recorded pass for one batch size, which reads ``pixels`` and writes ``logits``.

    The pass reads floats. Bytes are transferred as bytes and converted on the device, so that one
    recording serves both types, and neither is slow when it first arrives.

    Attributes:
        pixels: ``(b, h, w, 3)``, 32-bit floats from 0 to 255.
        buffers: for bytes and for floats.
    """

    graph: Graph
    pixels: Tensor
    logits: Tensor
    buffers: Mapping[torch.dtype, TransferBuffer]

    def run(self, batch: Tensor) -> Tensor:
        """Pixels ``(b, h, w, 3)``, bytes or floats, to logits ``(b, classes)`` on the CPU."""
        buffer = self.buffers[batch.dtype]
        buffer.staged.copy_(batch)
        buffer.arrived.copy_(buffer.staged, non_blocking=True)
        if buffer.arrived is not self.pixels:
            self.pixels.copy_(buffer.arrived)
        self.graph.replay()
        return self.logits.cpu()


def make_transfer_buffers(pixels: Tensor, *, pin: bool = True) -> dict[torch.dtype, TransferBuffer]:
    """Buffers for batches of bytes and of floats, from which ``pixels`` is filled."""

    def staged(dtype: torch.dtype) -> Tensor:
        return torch.zeros(pixels.shape, dtype=dtype, pin_memory=pin)

    bytes_arrived = torch.zeros_like(pixels, dtype=torch.uint8)
    return {
        torch.uint8: TransferBuffer(staged(torch.uint8), bytes_arrived),
        torch.float32: TransferBuffer(staged(torch.float32), pixels),
    }


@dataclass(slots=True, weakref_slot=True)
class Lane:
    """The resources of one thread on the device; its recordings share memory, since one runs at a
    time.

    Lanes of ended threads are reused, because libraries keep memory for every CUDA stream that was
    ever created.
    """

    stream: torch.cuda.Stream
    pool: Any = field(default_factory=torch.cuda.graph_pool_handle)
    recordings: dict[torch.Size, Recording] = field(default_factory=dict)


_idle_streams: dict[torch.device, list[torch.cuda.Stream]] = defaultdict(list)


def open_lane(device: torch.device) -> Lane:
    idle = _idle_streams[device]
    try:
        stream = idle.pop()
    except IndexError:
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    lane = Lane(stream)
    weakref.finalize(lane, idle.append, stream)
    return lane


class CudaBackend:
    """A CUDA graph for each batch size, on a CUDA stream for each thread.

    XCiT is bound by kernel launches: a graph turns hundreds into one. With two threads, the pixels
    of one batch are transferred while the pass of the other is running.

    Args:
        network: pixels ``(b, h, w, 3)`` as bytes to logits ``(b, classes)``; see `cast`.
        precision: type of the computation, one of `DTYPES`.
    """

    name = "torch-cudagraphs"
    threads = 1
    largest_batch = 64
    pads = True

    def __init__(
        self, network: nn.Module, device: torch.device, precision: str, *, streams: int = 2
    ) -> None:
        self.device, self.precision, self.streams = str(device), precision, streams
        self._device = device
        self._network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._thread = threading.local()
        self._one_records = threading.Lock()

    def open(self) -> None:
        torch.set_num_threads(self.threads)
        if not hasattr(self._thread, "lane"):
            self._thread.lane = open_lane(self._device)

    @torch.inference_mode()
    def logits(self, pixels: AnyPixels) -> Logits:
        lane: Lane = self._thread.lane
        with device_errors(self.device), torch.cuda.stream(lane.stream):
            batch = torch.from_numpy(pixels)
            return self._recording(lane, batch.shape).run(batch).numpy()

    def keep(
        self, sizes: Collection[int]
    ) -> None: ...  # recordings share memory, so there is nothing to release

    def kernels(self, size: int) -> None: ...  # PyTorch chooses them as it runs

    def _recording(self, lane: Lane, shape: torch.Size) -> Recording:
        """The recording for batches of this shape, made on first use."""
        if shape not in lane.recordings:
            with self._one_records:
                lane.recordings[shape] = self._record(lane, shape)
        return lane.recordings[shape]

    def _record(self, lane: Lane, shape: torch.Size) -> Recording:
        pixels = torch.zeros(shape, device=self._device)
        buffers = make_transfer_buffers(pixels)
        for buffer in buffers.values():  # also loads the kernel that converts bytes to floats
            pixels.copy_(buffer.arrived)
        for _ in range(WARM_UP_PASSES):
            self._network(pixels)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(
            graph, pool=lane.pool, stream=lane.stream, capture_error_mode="thread_local"
        ):
            logits = self._network(pixels)
        return Recording(graph, pixels, logits, buffers)
