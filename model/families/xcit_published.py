"""XCiT as its authors published it (arXiv 2106.09681), in the layout of timm.

It shares cross-covariance attention with `model.families.xcit`, and differs in its convolutional
stem, Fourier positions that fit any grid, and a class attention that also changes the patches.
Official and timm weights give the logits of timm's implementation; `model.families.registry`
renames official keys to this layout.

In comments: b batch, (h w) the grid of patches, n = h * w tokens, d channels.
"""

import math
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from model.families.xcit import cosine_similarity

NORM_EPS = 1e-6


class PublishedXCiT(nn.Module):
    """Images ``(b, 3, height, width)``, multiples of the patch size, to logits ``(b,
    num_classes)``.

    Without classes, the output is the embedding ``(b, dim)``: the normalised class token.

    Args:
        patch_size: 8 or 16 pixels per side.
        dim: channels of a token; a multiple of ``heads``. depth, cls_depth: blocks over the
            patches; blocks that update the class token.
        mlp_dim: hidden width of a feed-forward.
        tokens_norm: whether class attention also normalises the patches. False in the published
            nano models, true in all others; the weights do not determine it.
    """

    def __init__(
        self,
        *,
        patch_size: int,
        num_classes: int,
        dim: int,
        depth: int,
        cls_depth: int,
        heads: int,
        mlp_dim: int,
        tokens_norm: bool,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} must be a multiple of heads {heads}")
        if cls_depth < 1:
            raise ValueError(f"cls_depth {cls_depth} must be at least 1")
        self.patch_embed = PatchEmbedding(patch_size, dim)
        self.pos_embed = FourierPositions(dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.ModuleList(PatchBlock(dim, heads, mlp_dim) for _ in range(depth))
        self.cls_attn_blocks = nn.ModuleList(
            ClassBlock(dim, heads, mlp_dim, tokens_norm=tokens_norm) for _ in range(cls_depth)
        )
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.head = nn.Linear(dim, num_classes) if num_classes else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        grid = self.patch_embed(images)
        _, _, h, w = grid.shape
        patches = rearrange(grid + self.pos_embed(h, w), "b d h w -> b (h w) d")
        for block in self.blocks:
            patches = block(patches, h, w)
        cls_token = self.cls_token.expand(images.shape[0], -1, -1)
        for block in self.cls_attn_blocks[:-1]:
            cls_token, patches = block(cls_token, patches)
        last: ClassBlock = self.cls_attn_blocks[-1]  # type: ignore[assignment]
        # the last block need not update its patches
        cls_token = last.read(cls_token, last.norm1(patches))
        return self.head(self.norm(cls_token[:, 0]))


class PatchEmbedding(nn.Module):
    """Images to ``(b, d, h, w)``: one convolution of stride 2 per halving of the patch size."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        halvings = {8: 3, 16: 4}.get(patch_size)
        if halvings is None:
            raise ValueError(f"patch_size {patch_size} must be 8 or 16")
        self.patch_size = patch_size
        widths = [3, *(dim >> i for i in reversed(range(halvings)))]
        steps: list[nn.Module] = []
        for before, after in pairwise(widths):
            convolution = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
            steps += [nn.Sequential(convolution, nn.BatchNorm2d(after)), nn.GELU()]
        self.proj = nn.Sequential(*steps[:-1])

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"images of {height} x {width} pixels: both must be multiples of the "
                f"patch size {self.patch_size}"
            )
        return self.proj(images)


class FourierPositions(nn.Module):
    """Position encodings ``(1, d, h, w)``, from waves over each axis that span the whole grid."""

    WAVES = 32
    LONGEST = 10_000

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.token_projection = nn.Conv2d(2 * self.WAVES, dim, 1)

    def forward(self, h: int, w: int) -> Tensor:
        rows = rearrange(self._waves(h), "h c -> c h 1").expand(-1, h, w)
        columns = rearrange(self._waves(w), "w c -> c 1 w").expand(-1, h, w)
        waves = torch.cat((rows, columns)).to(self.token_projection.weight.dtype)
        return self.token_projection(rearrange(waves, "c h w -> 1 c h w"))

    def _waves(self, length: int) -> Tensor:
        """Sines and cosines of each position, alternating: ``(length, WAVES)``."""
        device = self.token_projection.weight.device
        angles = torch.arange(1, length + 1, device=device) / (length + 1e-6) * 2 * math.pi
        exponents = torch.arange(0, self.WAVES, 2, device=device) / self.WAVES
        angles = angles[:, None] / self.LONGEST**exponents
        return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)


class PatchBlock(nn.Module):
    """Patches ``(b, n, d)`` through attention, local interaction and feed-forward, each scaled."""

    def __init__(self, dim: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = CrossCovarianceAttention(dim, heads)
        self.gamma1 = nn.Parameter(torch.ones(dim))
        self.norm3 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.local_mp = LocalPatchInteraction(dim)
        self.gamma3 = nn.Parameter(torch.ones(dim))
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = FeedForward(dim, mlp_dim)
        self.gamma2 = nn.Parameter(torch.ones(dim))

    def forward(self, patches: Tensor, h: int, w: int) -> Tensor:
        patches = patches + scaled(self.attn(self.norm1(patches)), self.gamma1)
        patches = patches + scaled(self.local_mp(self.norm3(patches), h, w), self.gamma3)
        return patches + scaled(self.mlp(self.norm2(patches)), self.gamma2)


def scaled(branch: Tensor, gamma: Tensor | None) -> Tensor:
    """LayerScale; ``None`` if the scale is already merged into the branch."""
    return branch if gamma is None else gamma * branch


class CrossCovarianceAttention(nn.Module):
    """Attention between the channels of ``(b, n, d)``, over all tokens."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = rearrange(
            self.qkv(tokens), "b n (qkv heads c) -> qkv b heads n c", qkv=3, heads=self.heads
        ).unbind()
        similarity = cosine_similarity(q, k) * self.temperature  # (b, heads, c, c)
        attention = similarity.softmax(dim=-1).to(v.dtype)
        out = v @ attention.transpose(-2, -1)
        return self.proj(rearrange(out, "b heads n c -> b n (heads c)"))


class LocalPatchInteraction(nn.Module):
    """Two depth-wise convolutions over the grid of ``(b, n, d)``, which mix neighbours."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.bn = nn.BatchNorm2d(dim)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, tokens: Tensor, h: int, w: int) -> Tensor:
        grid = rearrange(tokens, "b (h w) d -> b d h w", h=h, w=w)
        grid = self.conv2(self.bn(F.gelu(self.conv1(grid))))
        return rearrange(grid, "b d h w -> b (h w) d")


class FeedForward(nn.Module):
    """The same two-layer perceptron for every token ``(..., d)``."""

    def __init__(self, dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, mlp_dim)
        self.fc2 = nn.Linear(mlp_dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(tokens)))


class ClassBlock(nn.Module):
    """Updates the class token ``(b, 1, d)`` from the patches ``(b, n, d)``, which change as well.

    The patches add their own norm to themselves, pass the second norm if ``tokens_norm`` is set,
    and are doubled: the published weights were trained that way.
    """

    adds_token = True  # False once token and ``gamma1`` are merged into the attention

    def __init__(self, dim: int, heads: int, mlp_dim: int, *, tokens_norm: bool) -> None:
        super().__init__()
        self.tokens_norm = tokens_norm
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = ClassAttention(dim, heads)
        self.gamma1 = nn.Parameter(torch.ones(dim))
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = FeedForward(dim, mlp_dim)
        self.gamma2 = nn.Parameter(torch.ones(dim))

    def forward(self, cls_token: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        normed_patches = self.norm1(patches)
        patches = patches + self.gamma1 * normed_patches
        if self.tokens_norm:
            patches = self.norm2(patches)
        return self.read(cls_token, normed_patches), 2 * patches

    def read(self, cls_token: Tensor, normed_patches: Tensor) -> Tensor:
        """Update the class token only."""
        read = self.attn(self.norm1(cls_token), normed_patches)
        cls_token = self.norm2(cls_token + self.gamma1 * read if self.adds_token else read)
        return cls_token + self.gamma2 * self.mlp(cls_token)


class ClassAttention(nn.Module):
    """The class token ``(b, 1, d)`` attends to itself and to the patches ``(b, n, d)``."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, cls_token: Tensor, patches: Tensor) -> Tensor:
        q, k, v = self._project(cls_token, patches)
        out = F.scaled_dot_product_attention(q, k, v)  # (b, heads, 1, c)
        return self.proj(rearrange(out, "b heads 1 c -> b 1 (heads c)"))

    def weights(self, cls_token: Tensor, patches: Tensor) -> Tensor:
        """Attention from the class token to itself and to each patch: ``(b, heads, 1, 1 + n)``."""
        q, k, _ = self._project(cls_token, patches)
        return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)

    def _project(self, cls_token: Tensor, patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        context = torch.cat((cls_token, patches), dim=1)  # (b, 1 + n, d)
        q, k, v = (
            rearrange(tokens, "b n (heads c) -> b heads n c", heads=self.heads)
            for tokens in (self.q(cls_token), self.k(context), self.v(context))
        )
        return q, k, v
