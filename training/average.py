"""The running average of a network's weights, which is the result of a run."""

from copy import deepcopy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """An exponential moving average of parameters and buffers.

    Unlike `torch.optim.swa_utils.AveragedModel` it never reads a number back from the device, so an
    update can be recorded in a CUDA graph.

    Attributes:
        network: a copy of the network that holds the average, in evaluation mode.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = deepcopy(network).requires_grad_(requires_grad=False).eval()
        self._average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Update the average with the current weights; counters are copied."""
        pairs = list(
            zip(self.network.state_dict().values(), network.state_dict().values(), strict=True)
        )
        numbers = [pair for pair in pairs if pair[0].is_floating_point()]
        self._average([mine for mine, _ in numbers], [theirs for _, theirs in numbers], None)
        for mine, theirs in pairs:
            if not mine.is_floating_point():
                mine.copy_(theirs)
