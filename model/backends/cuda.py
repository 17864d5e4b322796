"""PyTorch on an NVIDIA GPU: the whole forward pass of a batch size as one launch."""

import threading
import weakref
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from model.backends.torch import device_errors
from model.preprocess import AnyPixels
from model.scores import Logits

WARM_UP_PASSES = 3  # libraries choose their kernels in the first ones, which no graph may hold


@dataclass(frozen=True, slots=True)
class Recording:
    """A pass over batches of one size: where it reads, where it writes, and how to run it again.

    Bytes go over the bus from ``staged``, which is pinned, to ``pixels``.
    """

    graph: torch.cuda.CUDAGraph
    staged: Tensor
    pixels: Tensor
    logits: Tensor


@dataclass(slots=True, weakref_slot=True)
class Lane:
    """What one thread has on the device; its recordings share their memory, as one runs at a time.

    Libraries keep memory for every CUDA stream that ever was, so one whose thread has ended is
    taken again.
    """

    stream: torch.cuda.Stream
    pool: Any = field(default_factory=torch.cuda.graph_pool_handle)
    recordings: dict[tuple[torch.Size, torch.dtype], Recording] = field(default_factory=dict)


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

    XCiT is bound by launches: a graph makes one of hundreds. With two threads, the pixels of a
    batch cross the bus while the other's pass is running.

    Args:
        network: pixels ``(b, h, w, 3)`` of bytes to logits ``(b, classes)``; see `narrow`.
        precision: what it computes in, of `DTYPES`.
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
            recording = self._recording(lane, torch.from_numpy(pixels))
            recording.staged.copy_(torch.from_numpy(pixels))
            recording.pixels.copy_(recording.staged, non_blocking=True)
            recording.graph.replay()
            return recording.logits.cpu().numpy()

    def keep(self, sizes: Collection[int]) -> None: ...  # recordings share their memory

    def _recording(self, lane: Lane, pixels: Tensor) -> Recording:
        """The one for batches of this size, of bytes or of floats."""
        kind = pixels.shape, pixels.dtype
        if kind not in lane.recordings:
            with self._one_records:
                lane.recordings[kind] = self._record(lane, *kind)
        return lane.recordings[kind]

    def _record(self, lane: Lane, shape: torch.Size, dtype: torch.dtype) -> Recording:
        staged = torch.zeros(shape, dtype=dtype, pin_memory=True)
        pixels = staged.to(self._device)
        for _ in range(WARM_UP_PASSES):
            self._network(pixels)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(
            graph, pool=lane.pool, stream=lane.stream, capture_error_mode="thread_local"
        ):
            logits = self._network(pixels)
        return Recording(graph, staged, pixels, logits)
