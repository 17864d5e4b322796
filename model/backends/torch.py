"""PyTorch on any device that it supports; on a CPU as a TorchScript graph, without the GIL."""

import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.jit import optimized_execution  # type: ignore[attr-defined]

from model.errors import DeviceError, ModelError, OutOfMemory
from model.images.preprocess import AnyPixels
from model.scores import Logits

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
OUT_OF_MEMORY = (  # in messages of errors other than `torch.OutOfMemoryError`
    "can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


class TorchBackend:
    """Runs a network as it is, on any device that PyTorch supports.

    Args:
        network: pixels ``(b, h, w, 3)`` as bytes to logits ``(b, classes)``; see `cast` and
            `to_script`.
        precision: type of the computation, one of `DTYPES`. streams, threads: number of batches
            that run side by side, and CPU threads for each.
    """

    name = "torch"
    pads = False

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        precision: str,
        *,
        streams: int = 1,
        threads: int = 1,
    ) -> None:
        self.device, self.precision = str(device), precision
        self.streams, self.threads = streams, threads
        self.largest_batch = 16 if device.type == "cpu" else 64
        self._device = device
        self._network = network.to(device)

    def open(self) -> None:
        torch.set_num_threads(self.threads)

    @torch.inference_mode()
    def logits(self, pixels: AnyPixels) -> Logits:
        # Do not specialise scripts: rewriting one for each new size takes longer than it saves.
        with device_errors(self.device), optimized_execution(should_optimize=False):
            logits: Tensor = self._network(torch.from_numpy(pixels).to(self._device))
            return logits.cpu().numpy()

    def keep(self, sizes: Collection[int]) -> None: ...  # nothing is prepared per size

    def kernels(self, size: int) -> None: ...  # PyTorch chooses them as it runs


@contextmanager
def device_errors(device: str) -> Iterator[None]:
    """Convert PyTorch's errors to `OutOfMemory` and `DeviceError`; others pass unchanged."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise OutOfMemory(f"{device} is out of memory") from error
        if isinstance(error, torch.AcceleratorError):
            raise DeviceError(f"{device} failed: {error}") from error
        raise


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out in PyTorch's allocator, in CUDA itself, or in one of its libraries.

    Pinned buffers, graphs and library handles are not allocated by PyTorch's allocator; the device
    still works after such an error.
    """
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(sign in text for sign in OUT_OF_MEMORY)


class Cast(nn.Module):
    """Converts numbers to another type."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, numbers: Tensor) -> Tensor:
        return numbers.to(self.dtype)


def cast(network: nn.Sequential, precision: str) -> nn.Sequential:
    """Convert a network in place to ``precision``, except for its first step and its output.

    Norms and residuals are included, unlike with autocast: their memory traffic is a large part of
    a pass.

    Args:
        network: two steps: pixels ``(b, h, w, 3)`` to the input of the rest, and the rest to
            logits.
        precision: one of `DTYPES`.
    """
    first, rest = network
    dtype = DTYPES[precision]
    return nn.Sequential(first, Cast(dtype), rest.to(dtype), Cast(torch.float32))


def to_script(network: nn.Module, image_size: int) -> nn.Module:
    """Convert a network to a TorchScript graph, for batches of any size, of bytes or floats.

    The operations are the same, but a pass does not run Python, so threads do not wait for the
    interpreter lock. The graph is not frozen: freezing gains no speed, and keeps the weights for
    the life of the process, as TorchScript keeps every graph.

    Args:
        network: pixels ``(b, h, w, 3)`` to logits ``(b, classes)``.
        image_size: pixels per side.
    """
    example = torch.zeros(2, image_size, image_size, 3)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; sizes become constants
        traced: nn.Module = torch.jit.trace(network, example, check_trace=False)  # type: ignore[no-untyped-call]
    return traced


def visible_devices() -> tuple[str, ...]:
    """The kinds of device available to PyTorch, fastest first, the CPU last."""
    cuda = ("cuda",) if torch.cuda.is_available() else ()
    mps = ("mps",) if torch.backends.mps.is_available() else ()
    return (*cuda, *mps, "cpu")


def choose_device(name: str) -> torch.device:
    """The named device, after a test computation on it.

    Raises:
        ModelError: it does not exist or does not work.
    """
    try:
        device = torch.device(name)
        torch.ones(1, device=device).add(1).item()
    except Exception as error:  # PyTorch raises various errors here
        reason = str(error).partition("\n")[0]
        raise ModelError(f"device {name!r} cannot be used here: {reason}") from error
    return device


def fastest_precision(device: torch.device) -> str:
    """The narrowest type that the device computes in hardware."""
    if device.type == "cuda":
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16" if bf16 else "float16"
    if device.type == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16"):
        return "bfloat16"
    return "float32"
