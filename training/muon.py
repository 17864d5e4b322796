"""Muon: momentum whose update is replaced by the nearest orthogonal matrix (Jordan et al. 2024)."""

from collections.abc import Iterable

import torch
from torch import Tensor


class Muon(torch.optim.Optimizer):
    """For the hidden matrices of a network; AdamW suits everything else.

    Matrices of equal shape are orthogonalised together. Steps are scaled to AdamW's usual size, so
    the two share a learning-rate range.

    Args:
        lr: a tensor may be changed between replays of a CUDA graph.
        dtype: of the orthogonalisation, for which 16 bits suffice where the hardware has them; on
            other CPUs they take ten times as long.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float | Tensor,
        *,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            lr = group["lr"]
            for weights in _by_shape(group["params"]):
                directions = [self._direction(weight, group["momentum"]) for weight in weights]
                size = 0.2 * max(weights[0].shape) ** 0.5
                stack = torch.stack(directions).to(self.dtype)
                updates = orthogonalise(stack).float() * (lr * size)
                for weight, update in zip(weights, updates, strict=True):
                    weight.mul_(1 - lr * group["weight_decay"]).sub_(update)

    def _direction(self, weight: Tensor, momentum: float) -> Tensor:
        """Update Nesterov's momentum and return the direction of the step."""
        assert weight.grad is not None
        state = self.state[weight]
        if not state:
            state["velocity"] = torch.zeros_like(weight)
        velocity = state["velocity"].lerp_(weight.grad, 1 - momentum)
        return weight.grad.lerp(velocity, momentum)


def _by_shape(weights: Iterable[Tensor]) -> list[list[Tensor]]:
    """The weights that have a gradient, grouped by shape."""
    found: dict[torch.Size, list[Tensor]] = {}
    for weight in weights:
        if weight.grad is not None:
            found.setdefault(weight.shape, []).append(weight)
    return list(found.values())


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Bring all singular values of each matrix to about 1, by Newton-Schulz iteration.

    Args:
        matrices: ``(n, rows, columns)``.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
