"""Frozen descriptions of a checkpoint: its preprocessing, hyper-parameters and labels."""

import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, get_args

from model.drift import Reference
from model.errors import CheckpointError, show
from model.scores import Steps, Temperatures

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

MAX_IMAGE_SIZE = 2048  # pixels per side
MAX_NAME = 256  # characters of a name or version
MAX_LABEL = 1000
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
# Unicode's control characters, line and paragraph separators, and surrogates
UNPRINTABLE = {"Cc", "Zl", "Zp", "Cs"}
REORDERING = {*"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"}

Triple = tuple[float, float, float]
MAX_STEPS = 16


@dataclass(frozen=True, slots=True)
class PreprocessSpec:
    """How an image becomes the model's input; belongs to the checkpoint, not to the server.

    The shorter side is resized to ``image_size / crop_pct`` pixels and the centre is cropped to
    ``image_size``. ``mean`` and ``std`` are per RGB channel, for values from 0 to 1.
    """

    image_size: int
    interpolation: Interpolation = "bicubic"
    crop_pct: float = 1.0
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD

    def __post_init__(self) -> None:
        size = self.image_size
        if type(size) is not int or not 1 <= size <= MAX_IMAGE_SIZE:
            raise ValueError(
                f"image_size is {show(size)}; it must be a whole number from 1 to {MAX_IMAGE_SIZE}"
            )
        choices = get_args(Interpolation)
        if self.interpolation not in choices:
            raise ValueError(
                f"interpolation is {show(self.interpolation)}; "
                f"it must be one of {', '.join(choices)}"
            )
        if not _is_number(self.crop_pct) or not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct is {show(self.crop_pct)}; it must be above 0 and at most 1")
        for name, channels in (("mean", self.mean), ("std", self.std)):
            three = isinstance(channels, tuple) and len(channels) == 3
            if not three or not all(map(_is_number, channels)):
                raise ValueError(f"{name} must be three numbers: red, green, blue")
        if min(self.std) <= 0:
            raise ValueError(f"std is {show(self.std)}; each channel must be above 0")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A checkpoint without its weights: enough to build its network, feed it and label its output.

    ``hyperparameters`` are the keyword arguments of the family's network. ``labels`` and
    ``synsets`` (WordNet ids, where known) are in the order of the logits. ``provenance`` is free
    text by topic, such as data, recipe and accuracy. ``reference`` holds the distributions of
    predictions on a validation folder.

    The scores are the softmax of the logits over ``temperature``, which is 1 unless the checkpoint
    is calibrated. ``gap_temperatures`` are pairs of a distance to the best logit and the
    temperature that applies beyond it.

    Raises:
        CheckpointError: a text is empty, too long, or contains control characters; or a temperature
            is out of range.
    """

    name: str
    version: str
    family: str
    hyperparameters: Mapping[str, int | float]
    preprocess: PreprocessSpec
    labels: tuple[str, ...]
    synsets: tuple[str, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    temperature: float = 1.0
    gap_temperatures: Steps = ()
    reference: Reference | None = None

    def __post_init__(self) -> None:
        check_text("name", self.name, MAX_NAME)
        check_text("version", self.version, MAX_NAME)
        for name, texts in (
            ("label", self.labels),
            ("synset", self.synsets),
            ("provenance", (*self.provenance, *self.provenance.values())),
        ):
            for number, text in enumerate(texts):
                check_text(f"{name} {number}, counted from 0,", text, MAX_LABEL)
        _check_temperatures(self.temperature, self.gap_temperatures)

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    @property
    def temperatures(self) -> Temperatures:
        return self.temperature, self.gap_temperatures


def _check_temperatures(temperature: Any, steps: Any) -> None:
    if not _is_temperature(temperature):
        raise CheckpointError(
            f"temperature is {show(temperature)}; "
            f"it must be a number from {MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}"
        )
    pairs = [step for step in steps if isinstance(step, tuple) and len(step) == 2]
    gaps = [gap for gap, _ in pairs if _is_number(gap)]
    rising = all(low < high for low, high in pairwise((0, *gaps)))
    if len(steps) > MAX_STEPS or not len(steps) == len(pairs) == len(gaps) or not rising:
        raise CheckpointError(
            f"gap_temperatures is {show(steps)}; expected at most {MAX_STEPS} pairs of a gap, "
            "rising from above 0, and a temperature"
        )
    for _, value in pairs:
        _check_temperatures(value, ())


def _is_temperature(value: Any) -> bool:
    return _is_number(value) and MIN_TEMPERATURE <= value <= MAX_TEMPERATURE


def check_text(what: str, text: Any, longest: int) -> None:
    """Require one line of human-readable text.

    Raises:
        CheckpointError: ``what`` is not text, is empty or too long, or contains a character that
            breaks lines, hides or reorders text.
    """
    if not isinstance(text, str):
        raise CheckpointError(f"{what} is {show(text)}; expected text")
    if not text.strip():
        raise CheckpointError(f"{what} is empty")
    if len(text) > longest:
        raise CheckpointError(f"{what} has {len(text)} characters; at most {longest} are allowed")
    if text.isascii() and text.isprintable():
        return
    for character in text:
        if unicodedata.category(character) in UNPRINTABLE or character in REORDERING:
            raise CheckpointError(
                f"{what} contains the control character U+{ord(character):04X}; expected plain text"
            )
