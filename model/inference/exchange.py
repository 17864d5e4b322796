"""Items and answers as bytes, for processes that share memory. Needs no PyTorch."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from model.images.preprocess import AnyPixels
from model.inference.prediction import Classification, label
from model.scores import steps_from_json
from model.spec import ModelSpec, PreprocessSpec

Buffer = memoryview


def exchange_bytes(spec: ModelSpec) -> int:
    """The bytes that an item of the model, and later its answer, take at most."""
    floats = 3 * spec.preprocess.image_size**2
    return 4 * max(floats, spec.num_classes)


def write_item(item: AnyPixels, buffer: Buffer) -> bool:
    """Copy an item ``(h, w, 3)`` into a buffer; returns whether it is made of 32-bit floats."""
    np.frombuffer(buffer, item.dtype, item.size).reshape(item.shape)[...] = item
    return item.dtype == np.float32


def read_item(buffer: Buffer, floats: bool, image_size: int) -> AnyPixels:  # noqa: FBT001
    """The item ``(h, w, 3)`` in a buffer, not copied."""
    count, shape = 3 * image_size**2, (image_size, image_size, 3)
    if floats:
        return np.frombuffer(buffer, np.float32, count).reshape(shape)
    return np.frombuffer(buffer, np.uint8, count).reshape(shape)


def write_logits(logits: Any, buffer: Buffer) -> None:
    """Copy the logits ``(classes,)`` of an item into a buffer."""
    np.frombuffer(buffer, np.float32, logits.size)[:] = logits


def read_classification(buffer: Buffer, top_k: int, spec: ModelSpec) -> Classification:
    """The classification of an item, from a copy of the logits in a buffer."""
    logits = np.frombuffer(buffer, np.float32, spec.num_classes).copy()
    return label(logits[None], top_k, spec)[0]


def spec_to_json(spec: ModelSpec) -> dict[str, Any]:
    """The description of a model as a JSON object, without the reference, which is not needed."""
    return asdict(replace(spec, reference=None))


def spec_from_json(content: Mapping[str, Any]) -> ModelSpec:
    """The description that `spec_to_json` wrote."""
    pixels = content["preprocess"]
    preprocess = PreprocessSpec(
        **{**pixels, "mean": tuple(pixels["mean"]), "std": tuple(pixels["std"])}
    )
    tuples = {name: tuple(content[name]) for name in ("labels", "synsets")}
    steps = steps_from_json(content["gap_temperatures"])
    return ModelSpec(**{**content, **tuples, "preprocess": preprocess, "gap_temperatures": steps})
