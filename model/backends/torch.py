"""PyTorch, on whatever device it knows."""

import numpy as np
import torch
from torch import Tensor, nn

from model.backends.base import ClassIds, Scores
from model.errors import DeviceError, ModelError
from model.preprocess import Pixels

_PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class TorchBackend:
    """Eager PyTorch: 32-bit on a CPU, autocast to 16 bits on a GPU.

    A GPU runs one stream. A CPU runs a single-threaded stream on each core: threads that share one
    forward pass wait for each other at every operation, and for whatever else wants a core.

    Args:
        network: pixels ``(b, h, w, 3)`` of bytes to logits ``(b, classes)``.
        cores: how many there are to use.
        streams: how many passes to run side by side, where not the above.
    """

    name = "torch"

    def __init__(
        self,
        network: nn.Module,
        device: str,
        precision: str,
        *,
        cores: int,
        streams: int | None = None,
    ) -> None:
        self._device = choose_device(device)
        self._dtype = choose_dtype(precision, self._device)
        self.streams = streams or (cores if self._device.type == "cpu" else 1)
        self._threads = max(1, cores // self.streams)
        self._network = network.to(self._device)
        self.device = str(self._device)
        self.precision = str(self._dtype).removeprefix("torch.")
        self.pads = self._device.type == "cuda"

    def open(self) -> None:
        torch.set_num_threads(self._threads)

    @torch.inference_mode()
    def classify(self, pixels: Pixels, top_k: int) -> tuple[Scores, ClassIds]:
        try:
            best = self._forward(torch.from_numpy(pixels)).softmax(-1).topk(top_k)
            # One copy back: ids are exact in 32-bit floats up to 16 million classes.
            scores, class_ids = torch.stack((best.values, best.indices.float())).cpu().numpy()
        except torch.AcceleratorError as error:
            raise DeviceError(f"{self.device} failed: {error}") from error
        return scores, class_ids.astype(np.int64)

    def _forward(self, pixels: Tensor) -> Tensor:
        """Logits ``(b, classes)`` in 32 bits, on the device."""
        if self._device.type == "cuda":
            pixels = pixels.pin_memory()
        pixels = pixels.to(self._device, non_blocking=True)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            logits: Tensor = self._network(pixels)
        return logits.float()


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


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto`` is 16 bits on CUDA, bfloat16 where the hardware has it, else 32 bits."""
    if name != "auto":
        return _PRECISIONS[name]
    if device.type != "cuda":
        return torch.float32
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float16
