"""Muon: momentum whose step is the nearest orthogonal matrix (K. Jordan and others, 2024)."""

from collections.abc import Iterable

import torch
from torch import Tensor


class Muon(torch.optim.Optimizer):
    """For the hidden matrices of a network; everything else wants AdamW.

    Unlike `torch.optim.Muon` it orthogonalises in 32 bits: on a CPU without bf16 arithmetic the
    16-bit form takes ten times as long. Steps are scaled to AdamW's usual size, so the two share
    a learning-rate range.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        *,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["velocity"] = torch.zeros_like(weight)
                velocity = state["velocity"].lerp_(weight.grad, 1 - momentum)
                update = orthogonalise(weight.grad.lerp(velocity, momentum))
                weight.mul_(1 - lr * group["weight_decay"])
                weight.add_(update, alpha=-0.2 * lr * max(weight.shape) ** 0.5)


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """All singular values of ``(rows, columns)`` to about 1, by Newton and Schulz's iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    x = wide / wide.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if matrix.shape[0] > matrix.shape[1] else x
