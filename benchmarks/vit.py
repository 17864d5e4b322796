"""A plain vision transformer for comparison, with attention between tokens written out.

It does not use `scaled_dot_product_attention`: a fused kernel would save the memory of the ``n x
n`` matrix, though not its arithmetic, and the cost of the matrix is what is measured.
"""

# mypy: disable-error-code=no-any-return
import torch
from einops import rearrange, repeat
from einops.layers.torch import Rearrange
from torch import Tensor, nn


class ViT(nn.Module):
    """Images ``(b, 3, image_size, image_size)`` to logits ``(b, num_classes)``."""

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        num_classes: int,
        dim: int,
        depth: int,
        heads: int,
        mlp_dim: int,
    ) -> None:
        super().__init__()
        num_patches = (image_size // patch_size) ** 2
        self.to_patch_embedding = nn.Sequential(
            Rearrange("b c (h p1) (w p2) -> b (h w) (p1 p2 c)", p1=patch_size, p2=patch_size),
            nn.Linear(3 * patch_size**2, dim),
        )
        self.pos_embedding = nn.Parameter(torch.randn(1, 1 + num_patches, dim))
        self.cls_token = nn.Parameter(torch.randn(dim))
        self.layers = nn.Sequential(*(Layer(dim, heads, mlp_dim) for _ in range(depth)))
        self.mlp_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        cls_token = repeat(self.cls_token, "d -> b 1 d", b=len(images))
        tokens = torch.cat((cls_token, self.to_patch_embedding(images)), dim=1)
        return self.mlp_head(self.layers(tokens + self.pos_embedding)[:, 0])


class Layer(nn.Module):
    """Tokens ``(b, n, d)`` through attention and feed-forward, each a residual branch."""

    def __init__(self, dim: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.attention = Attention(dim, heads)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, mlp_dim), nn.GELU(), nn.Linear(mlp_dim, dim)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(tokens)
        return tokens + self.feed_forward(tokens)


class Attention(nn.Module):
    """Each token of ``(b, n, d)`` attends to all ``n`` tokens."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = rearrange(
            self.to_qkv(self.norm(tokens)),
            "b n (qkv heads c) -> qkv b heads n c",
            qkv=3,
            heads=self.heads,
        )
        attention = (q * self.scale @ k.mT).softmax(dim=-1)  # (b, heads, n, n)
        return self.to_out(rearrange(attention @ v, "b heads n c -> b n (heads c)"))
