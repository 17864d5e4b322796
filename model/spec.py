"""Frozen descriptions: what a checkpoint is, apart from its weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class PreprocessSpec:
    """How an image becomes the model's input. It belongs to the checkpoint, not to the server.

    The shorter side is resized to ``image_size / crop_pct`` pixels and the centre cropped to
    ``image_size``; ``mean`` and ``std`` are per RGB channel, of values from 0 to 1.
    """

    image_size: int
    interpolation: Interpolation = "bicubic"
    crop_pct: float = 1.0
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ValueError(f"image_size is {self.image_size}; it must be at least 1")
        if self.interpolation not in get_args(Interpolation):
            choices = ", ".join(get_args(Interpolation))
            raise ValueError(f"interpolation is {self.interpolation!r}; it must be of {choices}")
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct is {self.crop_pct}; it must be over 0 and at most 1")
        for name, channels in (("mean", self.mean), ("std", self.std)):
            if len(channels) != 3 or not all(isinstance(c, float | int) for c in channels):
                raise ValueError(f"{name} must be three numbers: red, green, blue")
        if min(self.std) <= 0:
            raise ValueError(f"std is {self.std}; each channel must be over 0")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a checkpoint is: enough to build its network, feed it and read its answers.

    ``hyperparameters`` are the keyword arguments of the family's network; ``labels`` are in the
    order of its logits, as are ``synsets``, WordNet's ids, where they are known; ``provenance`` is
    free text by topic (data, recipe, accuracy).
    """

    name: str
    version: str
    family: str
    hyperparameters: Mapping[str, int | float]
    preprocess: PreprocessSpec
    labels: tuple[str, ...]
    synsets: tuple[str, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        return len(self.labels)
