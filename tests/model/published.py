"""Weights like those of a trained network, derived from their names: equal in every layout."""

import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def realistic_weights(like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Random values for every key of a state dict, none at its initial value."""
    return {key: _realistic(key, tensor) for key, tensor in like.items()}


def random_images(count: int, height: int, width: int) -> Tensor:
    """Normalised images ``(count, 3, height, width)``."""
    chance = np.random.RandomState(height + width)
    return torch.from_numpy(chance.standard_normal((count, 3, height, width)).astype(np.float32))


def _realistic(key: str, like: Tensor) -> Tensor:
    if key.endswith("num_batches_tracked"):
        return torch.tensor(1000)
    chance = np.random.RandomState(zlib.crc32(key.encode()))
    shape = tuple(like.shape)
    name = key.rpartition(".")[2]
    if name == "running_var":
        values = chance.uniform(0.5, 2, shape)
    elif name == "running_mean":
        values = chance.normal(0, 0.3, shape)
    elif name == "temperature":
        values = chance.uniform(0.5, 4, shape)
    elif name.startswith("gamma"):
        values = chance.normal(0, 0.4, shape)
    elif name == "weight" and like.ndim == 1:  # a norm
        values = chance.uniform(0.5, 1.5, shape)
    elif name == "weight":
        values = chance.normal(0, like[0].numel() ** -0.5, shape)
    else:
        values = chance.normal(0, 0.2, shape)
    return torch.from_numpy(values.astype(np.float32))
