"""XCiT, the cross-covariance image transformer (arXiv 2106.09681), in the layout of vit-pytorch.

Attention runs over channels instead of tokens: its matrix is ``dim_head x dim_head`` whatever the
resolution, so the cost of an image grows linearly with its patches. State-dict keys are those of
the PyPI package vit-pytorch, whose weights load unchanged and give the same logits.

In comments: b batch, h and w the grid of patches, n = h * w tokens, d channels.
"""

from collections.abc import Iterable

import torch
from einops import rearrange, repeat
from einops.layers.torch import Rearrange
from torch import Tensor, nn


class XCiT(nn.Module):
    """Images ``(b, 3, image_size, image_size)`` to logits ``(b, num_classes)``.

    Without classes, the output is the embedding ``(b, dim)``: the normalised class token.

    Args:
        image_size, patch_size: pixels per side; an image is divided into whole patches.
        dim: channels of a token. depth, cls_depth: layers over the patches; layers that update the
            class token. heads, dim_head: attention heads and their channels; the product need not
            equal ``dim``.
        mlp_dim: hidden width of a feed-forward. dropout, emb_dropout: inside the layers; on the
            embedded patches.
        layer_dropout: chance of skipping a layer. Dropouts apply in training only.
    """

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        num_classes: int,
        dim: int,
        depth: int,
        cls_depth: int,
        heads: int,
        mlp_dim: int,
        dim_head: int = 64,
        dropout: float = 0.0,
        emb_dropout: float = 0.0,
        local_patch_kernel_size: int = 3,
        layer_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(
                f"image_size {image_size} must be a multiple of patch_size {patch_size}"
            )
        patch_dim = 3 * patch_size**2
        grid = image_size // patch_size

        self.to_patch_embedding = nn.Sequential(
            Rearrange("b c (h p1) (w p2) -> b (h w) (p1 p2 c)", p1=patch_size, p2=patch_size),
            nn.LayerNorm(patch_dim),
            nn.Linear(patch_dim, dim),
            nn.LayerNorm(dim),
        )
        # Not randn, which imports sympy on the meta device and takes 0.3 s.
        self.pos_embedding = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, grid**2, dim)))
        self.cls_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(dim)))
        self.dropout = nn.Dropout(emb_dropout)
        patch_layers = (
            PatchLayer(
                dim,
                layer,
                CrossCovarianceAttention(dim, heads, dim_head, dropout),
                LocalPatchInteraction(dim, local_patch_kernel_size, grid),
                FeedForward(dim, mlp_dim, dropout),
            )
            for layer in range(1, depth + 1)
        )
        self.xcit_transformer = Transformer(patch_layers, layer_dropout)
        self.final_norm = nn.LayerNorm(dim)
        class_layers = (
            ClassLayer(
                dim,
                layer,
                ClassAttention(dim, heads, dim_head, dropout),
                FeedForward(dim, mlp_dim, dropout),
            )
            for layer in range(1, cls_depth + 1)
        )
        self.cls_transformer = Transformer(class_layers, layer_dropout)
        head = nn.Linear(dim, num_classes) if num_classes else nn.Identity()
        self.mlp_head = nn.Sequential(nn.LayerNorm(dim), head)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.to_patch_embedding(images) + self.pos_embedding
        patches = self.final_norm(self.xcit_transformer(self.dropout(patches)))
        cls_token = repeat(self.cls_token, "d -> b 1 d", b=images.shape[0])
        cls_token = self.cls_transformer(cls_token, patches)
        return self.mlp_head(rearrange(cls_token, "b 1 d -> b d"))


class Transformer(nn.Module):
    """Layers in sequence. In training each is skipped by chance, but never all of them."""

    def __init__(self, layers: Iterable[nn.Module], layer_dropout: float) -> None:
        super().__init__()
        self.layer_dropout = layer_dropout
        self.layers = nn.ModuleList(layers)

    def forward(self, tokens: Tensor, *context: Tensor) -> Tensor:
        for layer in self._kept():
            tokens = layer(tokens, *context)
        return tokens

    def _kept(self) -> Iterable[nn.Module]:
        if not self.training or self.layer_dropout == 0:
            return self.layers
        keep = torch.rand(len(self.layers)) >= self.layer_dropout
        keep[torch.randint(len(self.layers), ())] |= not keep.any()
        return [layer for layer, kept in zip(self.layers, keep.tolist(), strict=True) if kept]


class Layer(nn.ModuleList):
    """Residual branches, each in its `LayerScale`; ``layer`` counts from 1."""

    def __init__(self, dim: int, layer: int, *branches: nn.Module) -> None:
        super().__init__(LayerScale(dim, branch, layer) for branch in branches)


class PatchLayer(Layer):
    """Patches ``(b, n, d)`` through attention, local interaction and feed-forward."""

    def forward(self, patches: Tensor) -> Tensor:
        for branch in self:
            patches = patches + branch(patches)
        return patches


class ClassLayer(Layer):
    """Updates the class token ``(b, 1, d)`` from the patches ``(b, n, d)``, which do not change."""

    adds_token = True  # False once the token is merged into the attention

    def forward(self, cls_token: Tensor, patches: Tensor) -> Tensor:
        attention, feed_forward = self
        read = attention(cls_token, patches)
        cls_token = cls_token + read if self.adds_token else read
        return cls_token + feed_forward(cls_token)


class LayerScale(nn.Module):
    """A branch scaled per channel; deeper layers (from 1) start with smaller scales."""

    def __init__(self, dim: int, fn: nn.Module, layer: int) -> None:
        super().__init__()
        initial = 0.1 if layer <= 18 else 1e-5 if layer <= 24 else 1e-6
        self.fn = fn
        self.scale = nn.Parameter(torch.full((dim,), initial))

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.fn(*inputs) * self.scale


class CrossCovarianceAttention(nn.Module):
    """Attention between the channels of ``(b, n, d)``, over all tokens."""

    def __init__(self, dim: int, heads: int, dim_head: int, dropout: float) -> None:
        super().__init__()
        inner_dim = heads * dim_head
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * inner_dim, bias=False)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.dropout = nn.Dropout(dropout)
        self.to_out = nn.Sequential(nn.Linear(inner_dim, dim), nn.Dropout(dropout))

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = rearrange(
            self.to_qkv(self.norm(tokens)),
            "b n (qkv heads c) -> qkv b heads n c",
            qkv=3,
            heads=self.heads,
        ).unbind()
        similarity = cosine_similarity(q, k) * self.temperature.exp()  # (b, heads, c, c)
        attention = self.dropout(similarity.softmax(dim=-1))
        out = v @ attention.to(v.dtype).transpose(-2, -1)
        return self.to_out(rearrange(out, "b heads n c -> b n (heads c)"))


def cosine_similarity(q: Tensor, k: Tensor) -> Tensor:
    """Cosines of every channel of ``q`` with every channel of ``k``: ``(..., n, c)`` to ``(..., c,
    c)``.

    Tokens stay rows, as the linear layers return them, and the small product is divided instead of
    the long factors.
    """
    return (q.transpose(-2, -1) @ k) * (inverse_norms(q).transpose(-2, -1) * inverse_norms(k))


def inverse_norms(channels: Tensor) -> Tensor:
    """The reciprocal norm of each channel, ``(..., n, c)`` to ``(..., 1, c)``, in 32 bits."""
    squares = channels.square().sum(dim=-2, keepdim=True, dtype=torch.float32)
    return squares.clamp(min=1e-24).rsqrt()


class LocalPatchInteraction(nn.Module):
    """Two depth-wise convolutions over the square grid of ``(b, n, d)``, which mix neighbours."""

    def __init__(self, dim: int, kernel_size: int, grid: int) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"local_patch_kernel_size {kernel_size} must be odd")
        padding = kernel_size // 2
        self.net = nn.Sequential(
            nn.LayerNorm(dim),
            Rearrange("b (h w) d -> b d h w", h=grid, w=grid),
            nn.Conv2d(dim, dim, kernel_size, padding=padding, groups=dim),
            nn.BatchNorm2d(dim),
            nn.GELU(),
            nn.Conv2d(dim, dim, kernel_size, padding=padding, groups=dim),
            Rearrange("b d h w -> b (h w) d"),
        )

    def forward(self, patches: Tensor) -> Tensor:
        return self.net(patches)


class FeedForward(nn.Module):
    """The same two-layer perceptron for every token ``(..., d)``."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, hidden_dim),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_dim, dim),
            nn.Dropout(dropout),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        return self.net(tokens)


class ClassAttention(nn.Module):
    """The class token ``(b, 1, d)`` attends to itself and to the patches ``(b, n, d)``.

    Only the class token is normalised here; the patches are already normalised.
    """

    def __init__(self, dim: int, heads: int, dim_head: int, dropout: float) -> None:
        super().__init__()
        inner_dim = heads * dim_head
        self.heads = heads
        self.scale = dim_head**-0.5
        self.norm = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner_dim, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner_dim, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.to_out = nn.Sequential(nn.Linear(inner_dim, dim), nn.Dropout(dropout))

    def forward(self, cls_token: Tensor, patches: Tensor) -> Tensor:
        q, k, v = self._project(cls_token, patches)
        out = self.dropout(self._attend(q, k)) @ v
        return self.to_out(rearrange(out, "b heads i c -> b i (heads c)"))

    def weights(self, cls_token: Tensor, patches: Tensor) -> Tensor:
        """Attention from the class token to itself and to each patch: ``(b, heads, 1, 1 + n)``."""
        q, k, _ = self._project(cls_token, patches)
        return self._attend(q, k)

    def _project(self, cls_token: Tensor, patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        cls_token = self.norm(cls_token)
        context = torch.cat((cls_token, patches), dim=1)  # (b, 1 + n, d)
        q = rearrange(self.to_q(cls_token), "b i (heads c) -> b heads i c", heads=self.heads)
        k, v = rearrange(
            self.to_kv(context), "b j (kv heads c) -> kv b heads j c", kv=2, heads=self.heads
        ).unbind()
        return q, k, v

    def _attend(self, q: Tensor, k: Tensor) -> Tensor:
        return (q @ k.transpose(-2, -1) * self.scale).softmax(dim=-1)
