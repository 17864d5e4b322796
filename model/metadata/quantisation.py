"""How a checkpoint is quantised to 8-bit integers: an entry in the metadata of its file.

The file keeps the original weights. The entry holds the largest input of each layer that is
computed in integers, from which the backend builds its graph. So the file contains numbers only,
and a server can compare the quantised network with the original one.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from model.errors import CheckpointError, show
from model.metadata.sidecar import parse_json
from model.spec import MAX_LABEL, MAX_NAME, check_text

QUANTISATION_KEY = "xcit_int8"
FORMAT_VERSION = 1
MAX_LAYERS = 2000
MAX_TOLERANCE = 0.25
MAX_EMBEDDING_TOLERANCE = 0.5
SMALLEST, LARGEST = 1e-6, 1e6  # inputs
DIGITS = 64  # of a SHA-256


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantisation:
    """The layers that are computed in 8-bit integers, and how they were chosen.

    Attributes:
        layers: the magnitude of the largest input of each layer, by its name; greater ones are cut.
        tolerance: the greatest distance of a probability from that of the original network, on the
            images of the self-test. embedding_tolerance: the same of an embedding, relative to its
            length.
        images: number of calibration images.
        images_sha256: digest of the list of the calibration images.
        figures: the measured differences, by name, as text.
        versions: of the libraries, by name.
    """

    layers: Mapping[str, float]
    tolerance: float
    embedding_tolerance: float
    images: int
    images_sha256: str
    figures: Mapping[str, str]
    versions: Mapping[str, str]

    def to_json(self, state: Mapping[str, Tensor]) -> str:
        """The metadata that `read_quantisation` reads, for these weights."""
        document = {"format_version": FORMAT_VERSION, **asdict(self)}
        return json.dumps({**document, "sha256": _digest(document, state)}, ensure_ascii=False)


def read_quantisation(path: Path, text: str, state: Mapping[str, Tensor]) -> Quantisation:
    """The quantisation in the metadata of a checkpoint.

    Args:
        state: the network's weights, as 32-bit floats.

    Raises:
        CheckpointError: this release cannot read it, or it belongs to other weights.
    """
    document = parse_json(path, text)
    if not isinstance(document, dict):
        raise CheckpointError(
            f"{path}: its quantisation is {show(document)}; expected a JSON object"
        )
    version = document.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format_version of its quantisation is {show(version)}; "
            f"this release reads {FORMAT_VERSION}"
        )
    digest = document.pop("sha256", None)
    del document["format_version"]
    try:
        found = _check(document)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: its quantisation cannot be used: {error}") from error
    expected = _digest({"format_version": FORMAT_VERSION, **asdict(found)}, state)
    if digest != expected:
        raise CheckpointError(
            f"{path}: its quantisation was made for other weights, or was changed: the digest is "
            f"{expected}, and the file says {show(digest)}; quantise the original checkpoint again"
        )
    return found


def _check(document: Mapping[str, Any]) -> Quantisation:
    """A quantisation, with every value checked."""
    names = Quantisation.__dataclass_fields__
    for name in document.keys() ^ names.keys():
        fault = "is unknown" if name in document else "is missing"
        raise CheckpointError(f"{show(name)} {fault}; expected {', '.join(names)}")
    layers, images = document["layers"], document["images"]
    if not isinstance(layers, dict) or not 1 <= len(layers) <= MAX_LAYERS:
        raise CheckpointError(f"layers is {show(layers)}; expected 1 to {MAX_LAYERS} layers")
    if type(images) is not int or images < 1:
        raise CheckpointError(f"images is {show(images)}; expected a whole number above 0")
    check_text("images_sha256", document["images_sha256"], DIGITS)
    return Quantisation(
        layers={name: _largest(name, value) for name, value in layers.items()},
        tolerance=_tolerance(document, "tolerance", MAX_TOLERANCE),
        embedding_tolerance=_tolerance(document, "embedding_tolerance", MAX_EMBEDDING_TOLERANCE),
        images=images,
        images_sha256=document["images_sha256"],
        figures=_texts("figures", document["figures"]),
        versions=_texts("versions", document["versions"]),
    )


def _largest(name: str, value: Any) -> float:
    check_text("the name of a layer", name, MAX_NAME)
    if not _is_number(value) or not SMALLEST <= value <= LARGEST:
        raise CheckpointError(
            f"the largest input of layer {show(name)} is {show(value)}; it must be a number from "
            f"{SMALLEST:g} to {LARGEST:g}"
        )
    return float(value)


def _tolerance(document: Mapping[str, Any], name: str, greatest: float) -> float:
    value = document[name]
    if not _is_number(value) or not 0 < value <= greatest:
        raise CheckpointError(f"{name} is {show(value)}; it must be above 0 and at most {greatest}")
    return float(value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _texts(what: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > MAX_LAYERS:
        raise CheckpointError(f"{what} is {show(value)}; expected texts by name")
    for name, text in value.items():
        check_text(f"a name in {what}", name, MAX_NAME)
        check_text(f"{what} {show(name)}", text, MAX_LABEL)
    return dict(value)


def _digest(document: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    """A digest of the quantisation and of the weights that it was made for."""
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode())
    for key in sorted(state):
        tensor = state[key].contiguous()
        digest.update(f"{key} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
