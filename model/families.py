"""The architectures that can be served: how each is recognised, sized and built.

A new family is one module with a network, one function that reads its hyper-parameters from the
shapes of a state dict, and one entry in ``FAMILIES``.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.spec import ModelSpec
from model.xcit import XCiT

StateDict = Mapping[str, Tensor]
Hyperparameters = dict[str, int | float]


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture's code.

    Attributes:
        signature: a key that every state dict of this family has and no other's.
        build: hyper-parameters to network.
        infer: state dict to hyper-parameters; ``KeyError`` names a key that is missing,
            ``ValueError`` says which shape makes no sense.
    """

    name: str
    signature: str
    build: Callable[..., nn.Module]
    infer: Callable[[StateDict], Hyperparameters]


def build_network(spec: ModelSpec) -> nn.Module:
    """The network that ``spec`` describes, on the meta device: shapes, no memory, no weights."""
    with torch.device("meta"):
        return FAMILIES[spec.family].build(**spec.hyperparameters)


def infer_vit_pytorch(state: StateDict) -> Hyperparameters:
    """Hyper-parameters of `XCiT`: everything but the dropouts can be read from the shapes."""
    patch_dim = state["to_patch_embedding.1.weight"].shape[0]
    patch_size = _integer_root(patch_dim / 3, "to_patch_embedding.1.weight", "3 * patch_size ** 2")
    grid = _integer_root(state["pos_embedding"].shape[1], "pos_embedding", "grid ** 2 patches")
    heads = state["xcit_transformer.layers.0.0.fn.temperature"].shape[0]
    inner_dim = state["xcit_transformer.layers.0.0.fn.to_qkv.weight"].shape[0] // 3
    return {
        "image_size": patch_size * grid,
        "patch_size": patch_size,
        "num_classes": state["mlp_head.1.weight"].shape[0],
        "dim": state["to_patch_embedding.2.weight"].shape[0],
        "depth": _count_layers(state, "xcit_transformer"),
        "cls_depth": _count_layers(state, "cls_transformer"),
        "heads": heads,
        "dim_head": inner_dim // heads,
        "mlp_dim": state["xcit_transformer.layers.0.2.fn.net.1.weight"].shape[0],
        "local_patch_kernel_size": state["xcit_transformer.layers.0.1.fn.net.2.weight"].shape[-1],
    }


def _integer_root(square: float, key: str, meaning: str) -> int:
    root = math.isqrt(int(square))
    if root < 1 or root * root != square:
        raise ValueError(f"{key} should hold {meaning}, which {square:g} is not")
    return root


def _count_layers(state: StateDict, transformer: str) -> int:
    found = (re.match(rf"{transformer}\.layers\.(\d+)\.", key) for key in state)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family("vit_pytorch", "xcit_transformer.layers.0.0.scale", XCiT, infer_vit_pytorch),
    )
}
