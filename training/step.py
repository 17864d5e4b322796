"""One training step on one batch."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from training.average import Average
from training.batches import Batch


class Step:
    """Forward, backward, optimisers and average. Nothing here waits for the device.

    Attributes:
        total: sum of the losses since it was last set to zero, on the device.
    """

    def __init__(
        self,
        model: nn.Module,
        network: nn.Module,
        average: Average,
        optimizers: Sequence[torch.optim.Optimizer],
        label_smoothing: float,
    ) -> None:
        """Prepare steps of ``model``, pixels to logits, which contains or wraps ``network``."""
        self.model, self.network, self.average = model, network, average
        self.optimizers, self.label_smoothing = optimizers, label_smoothing
        self.device = next(network.parameters()).device
        self.total = torch.zeros((), dtype=torch.float64, device=self.device)

    def __call__(self, batch: Batch) -> None:
        self._differentiate(batch)
        for optimizer in self.optimizers:
            optimizer.step()
        self.forget_gradients()
        self.average.update(self.network)

    def forget_gradients(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def _differentiate(self, batch: Batch) -> None:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=fast_bf16(self.device)):
            logits = self.model(batch.pixels)
        seen, added = (
            F.cross_entropy(
                logits.float(), each, reduction="none", label_smoothing=self.label_smoothing
            )
            for each in (batch.classes, batch.pasted_classes)
        )
        loss = (seen + batch.pasted * (added - seen)).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        self.total += loss.detach()


def fast_bf16(device: torch.device) -> bool:
    """Whether the hardware has 16-bit arithmetic; emulation is slower than 32 bits."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu.get_capabilities().get("avx512_bf16"))
