"""PyTorch, eager, on whatever device it knows."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from model.errors import DeviceError, ModelError, OutOfMemory
from model.preprocess import AnyPixels
from model.scores import Logits

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class TorchBackend:
    """Operation by operation: the plainest way, and the one that the others are compared with.

    Args:
        network: pixels ``(b, h, w, 3)`` of bytes to logits ``(b, classes)``, in 32 bits; it is
            changed for 16.
        precision: of `DTYPES`.
        streams, threads: how many batches run side by side, and the CPU's threads of each.
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
        self._device, self._dtype = device, DTYPES[precision]
        self._network = narrow(network.to(device), self._dtype)

    def open(self) -> None:
        torch.set_num_threads(self.threads)

    @torch.inference_mode()
    def logits(self, pixels: AnyPixels) -> Logits:
        with (
            device_errors(self.device),
            torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32),
        ):
            logits: Tensor = self._network(torch.from_numpy(pixels).to(self._device))
            return logits.float().cpu().numpy()


@contextmanager
def device_errors(device: str) -> Iterator[None]:
    """PyTorch's errors in this package's words."""
    try:
        yield
    except torch.AcceleratorError as error:
        raise DeviceError(f"{device} failed: {error}") from error
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise OutOfMemory(f"{device} is out of memory") from error
        raise


def narrow(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Matrices and kernels in ``dtype``, once: autocast would do it again in every pass."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.to(dtype)
    return network


def choose_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one, then Apple's MPS, else the CPU."""
    if name == "auto":
        if torch.cuda.is_available():
            name = "cuda"
        else:
            name = "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(f"device {name!r} cannot be used here: {reason}") from error
    return device


def fastest_precision(device: torch.device) -> str:
    """The narrowest that the device computes in hardware."""
    if device.type == "cuda":
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16" if bf16 else "float16"
    if device.type == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16"):
        return "bfloat16"
    return "float32"
