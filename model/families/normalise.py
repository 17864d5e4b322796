"""Normalisation, the model's first operation, which runs on the device."""

import torch
from einops import rearrange
from torch import Tensor, nn

from model.spec import PreprocessSpec


class Normalise(nn.Module):
    """Pixels ``(b, h, w, 3)`` from 0 to 255 to normalised ``(b, 3, h, w)``, 32-bit floats."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: PreprocessSpec) -> None:
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor(spec.mean), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(spec.std), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        return rearrange((pixels - self.mean) / self.std, "b h w c -> b c h w")
