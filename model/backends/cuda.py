"""PyTorch on an NVIDIA GPU: the whole forward pass of a batch size as one launch."""

import threading
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.backends.torch import DTYPES, device_errors, narrow
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


class CudaBackend:
    """A CUDA graph for each batch size, on a CUDA stream for each thread.

    XCiT is bound by launches: a graph makes one of hundreds. With two threads, the pixels of a
    batch cross the bus while the other's pass is running.

    Args:
        network: pixels ``(b, h, w, 3)`` of bytes to logits ``(b, classes)``, in 32 bits; it is
            changed for 16.
        precision: of `DTYPES`.
    """

    name = "torch-cudagraphs"
    threads = 1
    pads = True

    def __init__(
        self, network: nn.Module, device: torch.device, precision: str, *, streams: int = 2
    ) -> None:
        self.device, self.precision, self.streams = str(device), precision, streams
        self._device, self._dtype = device, DTYPES[precision]
        network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network = narrow(network, self._dtype)
        self._thread = threading.local()

    def open(self) -> None:
        self._thread.stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._thread.recordings = {}

    @torch.inference_mode()
    def logits(self, pixels: AnyPixels) -> Logits:
        with device_errors(self.device), torch.cuda.stream(self._thread.stream):
            recording = self._recording(torch.from_numpy(pixels))
            recording.staged.copy_(torch.from_numpy(pixels))
            recording.pixels.copy_(recording.staged, non_blocking=True)
            recording.graph.replay()
            return recording.logits.cpu().numpy()

    def _recording(self, pixels: Tensor) -> Recording:
        """The one for batches of this size, of bytes or of floats."""
        recordings: dict[tuple[torch.Size, torch.dtype], Recording] = self._thread.recordings
        kind = pixels.shape, pixels.dtype
        if kind not in recordings:
            recordings[kind] = self._record(*kind)
        return recordings[kind]

    def _record(self, shape: torch.Size, dtype: torch.dtype) -> Recording:
        staged = torch.zeros(shape, dtype=dtype, pin_memory=True)
        pixels = staged.to(self._device)
        for _ in range(WARM_UP_PASSES):
            self._forward(pixels)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._thread.stream, capture_error_mode="thread_local"):
            logits = self._forward(pixels)
        return Recording(graph, staged, pixels, logits)

    def _forward(self, pixels: Tensor) -> Tensor:
        """Logits ``(b, classes)`` in 32 bits; casts are recorded, so none may be cached."""
        with torch.autocast(
            "cuda", self._dtype, enabled=self._dtype != torch.float32, cache_enabled=False
        ):
            logits: Tensor = self._network(pixels)
        return logits.float()
