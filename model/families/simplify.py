"""Rewriting networks for inference: fewer operations, the same logits, for every backend.

Batch norms, layer scales, normalisation, positions and the class token are merged into the weights.
The functions modify the network in place.
"""

import math
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from model.families.xcit import LayerScale, LocalPatchInteraction, XCiT
from model.families.xcit_published import PublishedXCiT
from model.spec import PreprocessSpec

Affine = tuple[Tensor, Tensor]
Module = Any  # torch does not type the parts of a module


def baseline(network: nn.Module, preprocess: PreprocessSpec) -> nn.Sequential:
    """Pixels ``(b, h, w, 3)`` as bytes to logits ``(b, classes)``, without any rewriting."""
    return nn.Sequential(Normalise(preprocess), network)


@torch.no_grad()
def simplify_vit_pytorch(network: XCiT, preprocess: PreprocessSpec) -> nn.Sequential:
    """Like `baseline`, without batch norms and layer scales, and with pixels normalised as patches.

    Normalisation stays a separate operation, because a LayerNorm over the whole patch follows it.
    """
    for layer in (*network.xcit_transformer.layers, *network.cls_transformer.layers):
        for i, branch in enumerate(layer):
            layer[i] = without_scale(branch)
    tokens = network.pos_embedding.shape[1]
    patch_layers: Module = network.xcit_transformer.layers
    for layer in patch_layers:
        shrink_channels(layer[0].to_qkv, tokens)
    class_layers: Module = network.cls_transformer.layers
    for layer in class_layers[:1]:
        merge_token(layer, layer[0].to_out[0], network.cls_token)
    network.to_patch_embedding[0] = nn.Identity()
    patch_size = preprocess.image_size // math.isqrt(tokens)
    return nn.Sequential(NormalisedPatches(preprocess, patch_size), network)


@torch.no_grad()
def simplify_published(network: PublishedXCiT, preprocess: PreprocessSpec) -> nn.Sequential:
    """Like `baseline`, with norms, scales and positions merged into the weights."""
    parts: Module = network
    size = preprocess.image_size
    grid = size // network.patch_embed.patch_size
    parts.pos_embed = Constant(network.pos_embed(grid, grid))

    stem = parts.patch_embed.proj
    for i in range(0, len(stem), 2):
        convolution, norm = stem[i]
        scale_outputs(convolution, *batch_norm(norm))
        stem[i] = convolution
    stem[0] = absorb_inputs(stem[0], normalisation(preprocess), size)

    for block in parts.blocks:
        shrink_channels(block.attn.qkv, grid**2)
        scale_outputs(block.attn.proj, block.gamma1)
        scale_outputs(block.mlp.fc2, block.gamma2)
        scale_outputs(block.local_mp.conv2, block.gamma3)
        block.gamma1 = block.gamma2 = block.gamma3 = None
        block.local_mp.conv2 = absorb_inputs(
            block.local_mp.conv2, batch_norm(block.local_mp.bn), grid
        )
        block.local_mp.bn = nn.Identity()
    first: Module = parts.cls_attn_blocks[0]
    scale_outputs(first.attn.proj, first.gamma1)
    merge_token(first, first.attn.proj, parts.cls_token.flatten())
    return nn.Sequential(ChannelsFirst(), network)


def without_scale(branch: LayerScale) -> nn.Module:
    """The branch of a `LayerScale`, with the scale merged into its last layer."""
    fn: Module = branch.fn
    if isinstance(fn, LocalPatchInteraction):
        convolution, norm = fn.net[2], fn.net[3]
        scale_outputs(convolution, *batch_norm(norm))
        fn.net[3] = nn.Identity()
    *_, last = (module for module in fn.modules() if isinstance(module, nn.Linear | nn.Conv2d))
    scale_outputs(last, branch.scale)
    return fn


def merge_token(block: Module, last: Module, cls_token: Tensor) -> None:
    """Add the class token in the bias of ``last``, not after the first class block's attention.

    OpenVINO would add one constant row inside the matrix product, but the rows of a larger batch
    after it, when bfloat16 has rounded the product: logits would depend on the batch size.
    """
    last.bias = frozen(last.bias + cls_token)
    block.adds_token = False


def batch_norm(norm: Module) -> Affine:
    """The scale and shift of each channel that a batch norm applies in evaluation."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias - norm.running_mean * scale


def normalisation(preprocess: PreprocessSpec) -> Affine:
    """The scale and shift of each channel that `Normalise` applies to bytes."""
    mean, std = torch.tensor(preprocess.mean), torch.tensor(preprocess.std)
    return 1 / (255 * std), -mean / std


def shrink_channels(qkv: Module, tokens: int) -> None:
    """Keep the products of queries and keys, summed over ``tokens``, within the range of 16 bits.

    Both are scaled by a power of two, which does not change their cosines.
    """
    scale = torch.ones(len(qkv.weight))
    scale[: len(scale) * 2 // 3] = 2.0 ** -math.ceil(math.log2(tokens) / 2)
    scale_outputs(qkv, scale)


def scale_outputs(layer: Module, scale: Tensor, shift: Tensor | None = None) -> None:
    """Make a linear layer or a convolution output ``scale`` times its output, plus ``shift``."""
    layer.weight = frozen(layer.weight * scale.reshape(-1, *[1] * (layer.weight.ndim - 1)))
    if layer.bias is not None:
        shift = layer.bias * scale + (0 if shift is None else shift)
    layer.bias = None if shift is None else frozen(shift)


def absorb_inputs(convolution: Module, affine: Affine, size: int) -> "MappedConv2d":
    """A convolution of ``x`` that equals one of ``scale * x + shift``, over ``(b, c, size, size)``.

    Padding zeros are not shifted, so near the borders the shift contributes less: it becomes a bias
    for each position.
    """
    scale, shift = (rearrange(each, "c -> 1 c 1 1") for each in affine)
    bias = convolution(shift.expand(1, -1, size, size))
    if convolution.groups == 1:
        weight = convolution.weight * scale  # (out, in, k, k)
    else:
        weight = convolution.weight * rearrange(scale, "1 c 1 1 -> c 1 1 1")
    convolution.weight, convolution.bias = frozen(weight), None
    return MappedConv2d(convolution, bias)


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


class NormalisedPatches(nn.Module):
    """Pixels ``(b, h, w, 3)`` as bytes to normalised patches ``(b, n, d)``, 32-bit floats.

    Normalising after cutting is faster: its rows are as long as a patch instead of a pixel.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, preprocess: PreprocessSpec, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        scale, shift = (each.repeat(patch_size**2) for each in normalisation(preprocess))
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = rearrange(
            pixels.float(),
            "b (h p1) (w p2) c -> b (h w) (p1 p2 c)",
            p1=self.patch_size,
            p2=self.patch_size,
        )
        return torch.addcmul(self.shift, patches, self.scale)


class MappedConv2d(nn.Module):
    """A convolution with a bias for each channel and position, ``(1, c, h, w)``."""

    bias: Tensor

    def __init__(self, convolution: nn.Module, bias: Tensor) -> None:
        super().__init__()
        self.convolution = convolution
        self.register_buffer("bias", bias)

    def forward(self, grid: Tensor) -> Tensor:
        out: Tensor = self.convolution(grid)
        return out + self.bias.to(out.dtype)


class Constant(nn.Module):
    """Returns the same tensor for any input."""

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)

    def forward(self, *inputs: object) -> Tensor:
        return self.value


class ChannelsFirst(nn.Module):
    """Pixels ``(b, h, w, 3)`` as bytes to ``(b, 3, h, w)``, 32-bit floats."""

    def forward(self, pixels: Tensor) -> Tensor:
        return rearrange(pixels.float(), "b h w c -> b c h w")


def frozen(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight, requires_grad=False)
