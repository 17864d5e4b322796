"""The choices of a training run, declared once for flags, help, state and model card."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from model.errors import ModelError

ARCHITECTURE = (
    *("image_size", "patch_size", "dim", "depth", "cls_depth", "heads", "dim_head", "mlp_dim"),
    *("local_patch_kernel_size", "dropout", "emb_dropout", "layer_dropout"),
)
MIN_STEPS = 500  # fewer steps move the weights too little
STEPS_PER_EPOCH = 16  # minimum, if there are enough images
MIN_BATCH, MAX_BATCH = 8, 128
EPOCHS = 26
AVERAGED_SHARE = 1 / 30  # half-life of the averaged weights, as a share of all steps
# Choices that belong together, by the value of --preset.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    # For a GPU and tens of thousands of images. Images that are seen two hundred times need
    # stronger augmentation, and weights stronger decay. The network is deeper and wider, for a
    # fifth more time per image when served. Batches are larger, to fill the GPU, and the rate is
    # higher, which needs some epochs of warm-up.
    "long": {
        "depth": 9,
        "mlp_dim": 320,
        "epochs": 200,
        "warmup_epochs": 5.0,
        "batch_size": 512,
        "muon_lr": 4e-3,
        "adamw_lr": 4e-3,
        "weight_decay": 0.1,
        "distort": 0.5,
    },
}


def _choice(default: Any, meaning: str, rule: str = "") -> Any:
    """A choice; ``rule`` describes how its default depends on the size of the data."""
    return field(default=default, metadata={"help": meaning, "rule": rule})


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that determines the weights, apart from the data.

    The defaults are those of the bundled model; see `recipe_for` for other data.
    """

    name: str = _choice("xcit-cifar10", "name of the model", "that of --out")
    image_size: int = _choice(32, "side of the input in pixels")
    patch_size: int = _choice(4, "side of a patch in pixels")
    dim: int = _choice(128, "channels of a token")
    depth: int = _choice(8, "layers over the patches")
    cls_depth: int = _choice(1, "layers that update the class token")
    heads: int = _choice(4, "attention heads")
    dim_head: int = _choice(32, "channels of a head")
    mlp_dim: int = _choice(256, "hidden width of a feed-forward")
    local_patch_kernel_size: int = _choice(3, "kernel of the local patch interaction")
    dropout: float = _choice(0.0, "dropout inside the layers")
    emb_dropout: float = _choice(0.0, "dropout of the embedded patches")
    layer_dropout: float = _choice(0.0, "chance of skipping a layer")
    input_scale: float = _choice(
        0.003, "deviation of the input; a small one keeps flat patches flat in the first LayerNorm"
    )
    holdout: int = _choice(
        0, "training images held out, on which each epoch is measured", "0: test images"
    )
    epochs: int = _choice(
        EPOCHS, "passes over the training images", f"{EPOCHS}, or as many as make {MIN_STEPS} steps"
    )
    decay_epochs: int = _choice(
        EPOCHS // 2, "last epochs, over which the rates fall to zero", "half of the epochs"
    )
    warmup_epochs: float = _choice(0.5, "first epochs, over which the rates rise")
    batch_size: int = _choice(
        MAX_BATCH,
        "images per step, over all processes",
        f"{MIN_BATCH} to {MAX_BATCH}, for at least {STEPS_PER_EPOCH} steps per epoch",
    )
    muon_lr: float = _choice(3e-3, "rate of the hidden matrices")
    adamw_lr: float = _choice(3e-3, "rate of everything else")
    weight_decay: float = _choice(0.05, "decoupled weight decay of matrices and kernels")
    start: str = _choice("", "checkpoint to start from; its architecture is kept", "random weights")
    cutmix: float = _choice(0.5, "probability that an image gets a piece of another one")
    distort: float = _choice(
        0.0, "probability that an image's geometry or colours are distorted in one random way"
    )
    label_smoothing: float = _choice(0.1, "probability spread over the wrong classes")
    average: float = _choice(
        0.998,
        "decay per step of the averaged weights, which are saved",
        "a half-life of a thirtieth of the steps",
    )
    seed: int = _choice(0, "seed of initialisation, order and augmentation")

    @property
    def architecture(self) -> dict[str, Any]:
        """Keyword arguments of `XCiT`, except for ``num_classes``."""
        return {name: getattr(self, name) for name in ARCHITECTURE}

    @property
    def decay_start(self) -> int:
        """The first epoch whose rates fall; before it, ``epochs`` makes no difference."""
        return max(1, self.epochs - self.decay_epochs)

    def rate(self, epoch: float) -> float:
        """The factor on both rates at a point of training: rising, constant, falling."""
        rising = min(1.0, epoch / self.warmup_epochs + 0.01) if self.warmup_epochs else 1.0
        falling = (self.epochs - epoch) / (self.epochs - self.decay_start or 1)
        return min(rising, falling)


def recipe_for(images: int, given: Mapping[str, Any], preset: str = "default") -> Recipe:
    """The ``given`` choices, those of a preset, and defaults that fit the number of images.

    Few images make few steps per epoch. The default batch is then smaller, the epochs are more, and
    the average is shorter, so that it does not keep the initial weights.

    If ``epochs`` are given, the average stays that of the default epochs, so that a run can be
    prolonged.

    Args:
        images: number of training images.
        preset: a key of `PRESETS`.

    Raises:
        ModelError: the batch size is larger than the data, or another choice is invalid.
    """
    chosen = {**PRESETS[preset], **given}
    size = 2 ** int(math.log2(max(1, images // STEPS_PER_EPOCH)))
    batch_size = chosen.get("batch_size", min(max(size, MIN_BATCH), MAX_BATCH, images))
    if not 1 <= batch_size <= images:
        raise ModelError(f"the batch size is {batch_size}; it must be from 1 to {images} images")
    steps = images // batch_size  # per epoch
    epochs = PRESETS[preset].get("epochs", max(EPOCHS, math.ceil(MIN_STEPS / steps)))
    share = 1 - 0.5 ** (1 / (AVERAGED_SHARE * epochs * steps))
    sized = {
        "batch_size": batch_size,
        "epochs": epochs,
        "decay_epochs": chosen.get("epochs", epochs) // 2,
        "average": 1 - float(f"{share:.1g}"),
    }
    recipe = Recipe(**{**sized, **chosen})
    check_choices(recipe)
    return recipe


def check_choices(recipe: Recipe) -> None:
    """Raise `ModelError` for a choice with which no run could succeed."""
    for choice in fields(Recipe):
        value, flag = getattr(recipe, choice.name), f"--{choice.name.replace('_', '-')}"
        least = 0 if choice.name in ("seed", "decay_epochs", "holdout") else 1
        if isinstance(value, int) and value < least:
            raise ModelError(f"{flag} is {value}; it must be at least {least}")
        if choice.name == "warmup_epochs":
            if not 0 <= value < math.inf:
                raise ModelError(f"{flag} is {value}; it must be at least 0")
        elif isinstance(value, float) and not 0 <= value <= 1:
            raise ModelError(f"{flag} is {value}; it must be from 0 to 1")
    if recipe.image_size % recipe.patch_size:
        raise ModelError(
            f"--image-size is {recipe.image_size}; it must be a multiple of --patch-size, "
            f"{recipe.patch_size}"
        )
