"""The architectures that can be served: how each is recognised, sized and built.

To add a family, write its network and a function that infers its hyper-parameters from the shapes
of a state dict, and add an entry to ``FAMILIES``.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from model.families.simplify import simplify_published, simplify_vit_pytorch
from model.families.xcit import XCiT
from model.families.xcit_published import PublishedXCiT
from model.spec import ModelSpec, PreprocessSpec

StateDict = Mapping[str, Tensor]
Hyperparameters = dict[str, int | float]

NANO_DIM = 128
MAX_LAYERS = 200  # the largest published model has 24
MAX_CLASSES = 1_000_000


@dataclass(frozen=True, slots=True)
class Family:
    """An architecture's name and functions.

    Attributes:
        signature: a key that the state dicts of this family have, and those of no other family.
        head: module of the classifier, whose weight a backbone lacks.
        not_in_weights: hyper-parameters that weights do not determine; ``infer`` gives usual
            values.
        build: builds the network from hyper-parameters.
        infer: infers hyper-parameters from a state dict. ``KeyError`` names a missing key;
            ``ValueError`` says which shape is wrong.
        adapt: converts a state dict from any published layout to the network's.
        simplify: see `model.families.simplify`.
    """

    name: str
    signature: str
    head: str
    build: Callable[..., nn.Module]
    infer: Callable[[StateDict], Hyperparameters]
    simplify: Callable[[Any, PreprocessSpec], nn.Sequential]
    not_in_weights: tuple[str, ...] = ()
    adapt: Callable[[StateDict], StateDict] = dict


def build_network(spec: ModelSpec) -> nn.Module:
    """The network that ``spec`` describes, on the meta device: shapes without memory or weights."""
    with torch.device("meta"):
        return FAMILIES[spec.family].build(**spec.hyperparameters)


def add_embedding(network: nn.Module, family: str) -> nn.Module:
    """Make a network return its logits and then the embedding: ``(b, classes + dim)``.

    The embedding is the input of the classifier: the class token after the last norm. A network
    without a classifier already returns it, and is not changed.
    """
    place = FAMILIES[family].head
    classifier = network.get_submodule(place)
    if isinstance(classifier, nn.Linear):
        network.set_submodule(place, OutputAndInput(classifier))
    return network


class OutputAndInput(nn.Module):
    """The output of a layer, followed by its input."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, values: Tensor) -> Tensor:
        return torch.cat((self.layer(values), values), dim=-1)


def infer_vit_pytorch(state: StateDict) -> Hyperparameters:
    """Hyper-parameters of `XCiT`, read from shapes; only the dropouts cannot be."""
    patch_dim = _size(state, "to_patch_embedding.1.weight", 0)
    patch_size = _integer_root(patch_dim, 3, "to_patch_embedding.1.weight", "3 * patch_size ** 2")
    grid = _integer_root(_size(state, "pos_embedding", 1), 1, "pos_embedding", "grid ** 2")
    heads = _size(state, "xcit_transformer.layers.0.0.fn.temperature", 0)
    inner_dim = _size(state, "xcit_transformer.layers.0.0.fn.to_qkv.weight", 0) // 3
    if inner_dim < heads:
        raise ValueError(f"{heads} heads in {inner_dim} channels")
    return {
        "image_size": patch_size * grid,
        "patch_size": patch_size,
        "num_classes": _count_classes(state, "mlp_head.1.weight"),
        "dim": _size(state, "to_patch_embedding.2.weight", 0),
        "depth": _count(state, "xcit_transformer.layers"),
        "cls_depth": _count(state, "cls_transformer.layers"),
        "heads": heads,
        "dim_head": inner_dim // heads,
        "mlp_dim": _size(state, "xcit_transformer.layers.0.2.fn.net.1.weight", 0),
        "local_patch_kernel_size": _size(state, "xcit_transformer.layers.0.1.fn.net.2.weight", -1),
    }


def infer_published(state: StateDict) -> Hyperparameters:
    """Hyper-parameters of `PublishedXCiT`.

    ``tokens_norm`` cannot be read from the weights: it follows the authors' choice for this width.
    The image size cannot either, but is not a hyper-parameter.
    """
    dim = _size(state, "cls_token", -1)
    return {
        "patch_size": 16 if "patch_embed.proj.6.0.weight" in state else 8,
        "num_classes": _count_classes(state, "head.weight"),
        "dim": dim,
        "depth": _count(state, "blocks"),
        "cls_depth": _count(state, "cls_attn_blocks"),
        "heads": _size(state, "blocks.0.attn.temperature", 0),
        "mlp_dim": _size(state, "blocks.0.mlp.fc1.weight", 0),
        "tokens_norm": dim != NANO_DIM,
    }


def adapt_published(state: StateDict) -> StateDict:
    """Rename official keys to those of timm, which `PublishedXCiT` uses; tensors are views.

    The authors call the positions ``pos_embeder`` and keep query, key and value of the class
    attention in one matrix.
    """
    adapted = {}
    for key, tensor in state.items():
        head, joint, tail = key.partition(".attn.qkv.")
        if joint and head.startswith("cls_attn_blocks.") and tensor.ndim:
            for name, part in zip("qkv", tensor.chunk(3), strict=False):
                adapted[f"{head}.attn.{name}.{tail}"] = part
        else:
            adapted[key.replace("pos_embeder.", "pos_embed.")] = tensor
    return adapted


def _size(state: StateDict, key: str, dimension: int) -> int:
    shape = state[key].shape
    if not -len(shape) <= dimension < len(shape):
        raise ValueError(f"{key} has shape {tuple(shape)}, which has too few dimensions")
    return shape[dimension]


def _count_classes(state: StateDict, head: str) -> int:
    """Number of classes; 0 for a backbone, which has no classifier."""
    count = _size(state, head, 0) if head in state else 0
    if count > MAX_CLASSES:
        raise ValueError(f"{count} classes; at most {MAX_CLASSES} are allowed")
    return count


def _integer_root(size: int, factor: int, key: str, meaning: str) -> int:
    root = math.isqrt(size // factor)
    if root < 1 or factor * root**2 != size:
        raise ValueError(f"{key} has size {size}; expected {meaning}")
    return root


def _count(state: StateDict, layers: str) -> int:
    """Number of layers, whatever indices their keys have."""
    pattern = re.compile(rf"{re.escape(layers)}\.(\d+)\.")
    count = len({match[1] for key in state if (match := pattern.match(key))})
    if count > MAX_LAYERS:
        raise ValueError(f"{count} {layers}; at most {MAX_LAYERS} are allowed")
    return count


FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="vit_pytorch",
            signature="xcit_transformer.layers.0.0.scale",
            head="mlp_head.1",
            build=XCiT,
            infer=infer_vit_pytorch,
            simplify=simplify_vit_pytorch,
        ),
        Family(
            name="published",
            signature="blocks.0.local_mp.conv1.weight",
            head="head",
            build=PublishedXCiT,
            infer=infer_published,
            simplify=simplify_published,
            not_in_weights=("tokens_norm",),
            adapt=adapt_published,
        ),
    )
}
