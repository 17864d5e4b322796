"""The 42 models that the authors of XCiT published, with the authors' and timm's names."""

import re
from dataclasses import dataclass
from itertools import product

from model.families.registry import NANO_DIM, Hyperparameters

# width, depth and heads of each size
SIZES = {
    "nano_12": (NANO_DIM, 12, 4),
    "tiny_12": (192, 12, 4),
    "tiny_24": (192, 24, 4),
    "small_12": (384, 12, 8),
    "small_24": (384, 24, 8),
    "medium_24": (512, 24, 8),
    "large_24": (768, 24, 16),
}
# pixels per side, and the name of the training; at 384 all models were distilled
TRAININGS = ((224, "fb_in1k"), (224, "fb_dist_in1k"), (384, "fb_dist_in1k"))

_NAME = re.compile(
    rf"xcit_(?P<size>{'|'.join(SIZES)})_p(?P<patch>8|16)_(?P<pixels>\d{{2,4}})(?!\d)"
    r"(?:\.(?P<training>\w+)|_(?P<distilled>dist))?"
)


@dataclass(frozen=True, slots=True)
class Variant:
    """A published model."""

    size: str
    patch_size: int
    image_size: int
    training: str

    @property
    def name(self) -> str:
        """timm's name: ``xcit_small_12_p16_224.fb_dist_in1k``."""
        return f"xcit_{self.size}_p{self.patch_size}_{self.image_size}.{self.training}"

    @property
    def hyperparameters(self) -> Hyperparameters:
        """Keyword arguments of `PublishedXCiT`."""
        dim, depth, heads = SIZES[self.size]
        return {
            "patch_size": self.patch_size,
            "num_classes": 1000,
            "dim": dim,
            "depth": depth,
            "cls_depth": 2,
            "heads": heads,
            "mlp_dim": 4 * dim,
            "tokens_norm": dim != NANO_DIM,
        }


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(size, patch_size, image_size, training)
        for size, patch_size, (image_size, training) in product(SIZES, (16, 8), TRAININGS)
    )
}


def find_variant(name: str) -> Variant | None:
    """The variant of a name, by timm (``….fb_dist_in1k``) or by the authors (``…_dist``).

    Without a training in the name it is the first that was published at this size: plain at 224,
    distilled at 384.
    """
    match = _NAME.fullmatch(name)
    if not match:
        return None
    plain = f"xcit_{match['size']}_p{match['patch']}_{match['pixels']}"
    if match["training"]:
        return VARIANTS.get(f"{plain}.{match['training']}")
    if match["distilled"]:
        return VARIANTS.get(f"{plain}.fb_dist_in1k")
    return VARIANTS.get(f"{plain}.fb_in1k") or VARIANTS.get(f"{plain}.fb_dist_in1k")


def image_size_in(name: str) -> int | None:
    """The pixels per side that the name of a file or model contains."""
    match = _NAME.search(name)
    return int(match["pixels"]) if match else None
