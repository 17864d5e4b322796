"""The optimisers of a run, and their learning rates, which change from step to step."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from model.families.xcit import XCiT
from training.muon import Muon
from training.recipe import Recipe
from training.step import fast_bf16


def build_optimizers(network: XCiT, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices; AdamW for embedding, head, kernels, norms and scales.

    On a GPU the rates are tensors on the device, which a recorded step reads at every replay.
    """
    device = network.cls_token.device
    on_gpu = device.type == "cuda"
    muon_lr, adamw_lr = (
        torch.tensor(rate, device=device) if on_gpu else rate
        for rate in (recipe.muon_lr, recipe.adamw_lr)
    )
    hidden: list[Tensor] = []
    kernels: list[Tensor] = []
    vectors: list[Tensor] = []
    for name, weight in network.named_parameters():
        is_hidden = weight.ndim == 2 and "transformer" in name
        (hidden if is_hidden else kernels if weight.ndim > 1 else vectors).append(weight)
    groups: list[dict[str, Any]] = [
        {"params": kernels, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    dtype = torch.bfloat16 if fast_bf16(device) else torch.float32
    return [
        Muon(hidden, muon_lr, weight_decay=recipe.weight_decay, dtype=dtype),
        torch.optim.AdamW(groups, lr=adamw_lr, betas=(0.9, 0.99), fused=on_gpu, capturable=on_gpu),
    ]


def set_rates(optimizers: Sequence[torch.optim.Optimizer], rates: Sequence[float]) -> None:
    """Set each optimiser's learning rate; a tensor is written to, not replaced."""
    for optimizer, rate in zip(optimizers, rates, strict=True):
        for group in optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


def restore(optimizers: Sequence[torch.optim.Optimizer], states: Sequence[Any]) -> None:
    """Load saved states, except for the rates, which stay numbers or tensors of the device."""
    for optimizer, state in zip(optimizers, states, strict=True):
        rates = [group["lr"] for group in optimizer.param_groups]
        optimizer.load_state_dict(state)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
