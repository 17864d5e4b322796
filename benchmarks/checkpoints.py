"""Checkpoints of a given size with random weights, on which speed does not depend.

    python -m benchmarks.checkpoints dim128 dim128.safetensors

All are of family ``vit_pytorch`` at 224 pixels, patch size 16, 12 layers and 2 class layers, with
1000 classes and a feed-forward of 4 x dim, as in the paper. Heads follow its variants of that
width: nano_12 (128 channels, 4 heads of 32) and small_12 (384 channels, 8 heads of 48).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from model.checkpoint import write_checkpoint
from model.families.xcit import XCiT
from model.spec import ModelSpec, PreprocessSpec

IMAGE_SIZE = 224
CLASSES = 1000
HEADS = {"dim128": (128, 4), "dim384": (384, 8)}  # dim, heads


def write_random_checkpoint(variant: str, path: Path, *, seed: int = 0) -> None:
    """Write a self-describing checkpoint of a ``variant`` in `HEADS`."""
    dim, heads = HEADS[variant]
    hyperparameters = {
        "image_size": IMAGE_SIZE,
        "patch_size": 16,
        "num_classes": CLASSES,
        "dim": dim,
        "depth": 12,
        "cls_depth": 2,
        "heads": heads,
        "dim_head": dim // heads,
        "mlp_dim": 4 * dim,
    }
    torch.manual_seed(seed)
    spec = ModelSpec(
        name=f"random-{variant}",
        version="1",
        family="vit_pytorch",
        hyperparameters=hyperparameters,
        preprocess=PreprocessSpec(IMAGE_SIZE),
        labels=tuple(f"class_{number}" for number in range(CLASSES)),
    )
    write_checkpoint(path, spec, XCiT(**hyperparameters).state_dict())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoints", description=__doc__)
    parser.add_argument("variant", choices=HEADS)
    parser.add_argument("path", type=Path)
    args = parser.parse_args(argv)
    write_random_checkpoint(args.variant, args.path)


if __name__ == "__main__":
    main()
