"""Attention in fewer passes over memory, which take most of the time when a CPU trains.

In comments: b batch, n tokens, h heads, c channels of a head.
"""

from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor

from model.families.xcit import CrossCovarianceAttention


def attend(module: CrossCovarianceAttention, tokens: Tensor) -> Tensor:
    """The forward pass of ``module`` without dropout."""
    packed = module.to_qkv(module.norm(tokens))
    temperatures = module.temperature.exp().flatten()
    out: Tensor = CrossCovariance.apply(packed, temperatures)  # type: ignore[no-untyped-call]
    return module.to_out(out)


class CrossCovariance(torch.autograd.Function):
    """Queries, keys and values ``(b, n, 3 * h * c)``, temperatures ``(h,)`` to ``(b, n, h * c)``.

    The queries of a head lie next to its keys, in columns ``(b * h, n, 2 * c)``. The products of
    these columns with each other contain the similarities and, on the diagonal, the squared norms.
    Their gradient is one product as well.
    """

    @staticmethod
    def forward(ctx: Any, packed: Tensor, temperatures: Tensor) -> Tensor:
        b, h = len(packed), len(temperatures)
        parts = rearrange(packed, "b n (qkv h c) -> b n qkv h c", qkv=3, h=h)
        c = parts.shape[-1]
        columns = rearrange(parts[:, :, :2], "b n qk h c -> (b h) n (qk c)")
        values = rearrange(parts[:, :, 2], "b n h c -> (b h) n c")
        products = columns.mT @ columns
        norms = products.diagonal(dim1=1, dim2=2).float().clamp(min=1e-24).rsqrt()
        cosines = products[:, :c, c:] * _outer(norms)
        scores = cosines * repeat(temperatures, "h -> (b h) 1 1", b=b)
        attention = scores.softmax(dim=-1).to(packed.dtype)
        out = values @ attention.mT
        cosines = cosines.to(packed.dtype)
        ctx.save_for_backward(columns, values, norms, cosines, attention, temperatures)
        return rearrange(out, "(b h) n c -> b n (h c)", h=h)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        columns, values, norms, cosines, attention, temperatures = ctx.saved_tensors
        (b, n, _), h, c = gradient.shape, len(temperatures), values.shape[-1]
        parts = gradient.new_empty(b, n, 3, h, c)
        gradient = rearrange(gradient, "b n (h c) -> (b h) n c", h=h)
        by_values = gradient @ attention
        parts[:, :, 2] = rearrange(by_values, "(b h) n c -> b n h c", h=h)

        by_scores = attention * (gradient.mT @ values)
        by_scores -= attention * by_scores.sum(dim=-1, keepdim=True)  # through the softmax
        weighted = by_scores * cosines
        by_temperatures = rearrange(weighted, "(b h) i j -> h (b i j)", h=h).sum(
            dim=-1, dtype=torch.float32
        )
        scale = repeat(temperatures, "h -> (b h) 1", b=b)
        by_products = by_scores * (_outer(norms) * scale[..., None]).to(by_scores.dtype)
        by_norms = torch.cat((weighted.sum(dim=2), weighted.sum(dim=1)), dim=1) * scale

        mixing = columns.new_zeros(b * h, 2 * c, 2 * c)
        mixing[:, :c, c:], mixing[:, c:, :c] = by_products, by_products.mT
        mixing.diagonal(dim1=1, dim2=2).copy_(-by_norms * norms.square())
        parts[:, :, :2] = rearrange(columns @ mixing, "(b h) n (qk c) -> b n qk h c", h=h, qk=2)
        return parts.flatten(2), by_temperatures


def _outer(norms: Tensor) -> Tensor:
    """Each query's value times each key's, ``(b * h, 2 * c)`` to ``(b * h, c, c)``."""
    queries, keys = norms.chunk(2, dim=1)
    return queries[:, :, None] * keys[:, None, :]
