"""Reading timm's ``config.json`` next to a checkpoint."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from model.errors import CheckpointError, show
from model.metadata.sidecar import find_next_to, parse_json, parse_labels, read_text

LABELS = Path(__file__).parent / "imagenet-1k.tsv"
SYNSET = re.compile(r"n\d{8}")
# Features of the network here; any other value of these options would change its answers.
SUPPORTED = {"in_chans": 3, "global_pool": "token", "use_pos_embed": True, "crop_mode": "center"}


@dataclass(frozen=True, slots=True)
class TimmConfig:
    """timm's settings in this package's terms. Fields that timm leaves open are absent.

    Attributes:
        origin: the file.
        classes: number of classes, if given.
    """

    origin: str
    name: str
    hyperparameters: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    labels: Mapping[str, Any] = field(default_factory=dict)
    classes: int | None = None


def read_timm_config(checkpoint: Path) -> TimmConfig | None:
    """The ``config.json`` next to ``checkpoint``; ``None`` if there is none for an XCiT.

    Raises:
        CheckpointError: it cannot be read, or requires unsupported features.
    """
    path = find_next_to(checkpoint, "config.json")
    if not path:
        return None
    document = without_nulls(path, parse_json(path, read_text(path, checkpoint)))
    name = document.get("architecture")
    if not isinstance(name, str) or not name.startswith("xcit_"):
        return None
    pretrained = without_nulls(path, document.get("pretrained_cfg", {}))
    arguments = without_nulls(path, document.get("model_args", {}))
    document = {**pretrained, **document}
    if isinstance(tag := document.get("tag"), str) and tag:
        name = f"{name}.{tag}"
    labels = _labels(path, document)
    return parse_settings(str(path), name, document, {**document, **arguments}, labels)


def parse_settings(
    origin: str,
    name: str,
    document: Mapping[str, Any],
    arguments: Mapping[str, Any],
    labels: Mapping[str, Any],
) -> TimmConfig:
    """Translate timm's settings to this package's terms.

    Args:
        document: settings of the data: ``input_size``, ``crop_pct``, ``mean`` and so on.
        arguments: settings of the network.

    Raises:
        CheckpointError: they require unsupported features.
    """
    for option, supported in SUPPORTED.items():
        if arguments.get(option, supported) != supported:
            raise CheckpointError(
                f"{origin}: {option} is {show(arguments[option])}; "
                f"only {show(supported)} is supported"
            )
    preprocess = {
        option: document[option]
        for option in ("interpolation", "crop_pct", "mean", "std")
        if option in document
    }
    size = arguments.get("img_size") or document.get("input_size")
    if size is not None:
        preprocess["image_size"] = _side(origin, size)
    return TimmConfig(
        origin=origin,
        name=name,
        hyperparameters={k: arguments[k] for k in ("tokens_norm",) if k in arguments},
        preprocess=preprocess,
        labels=labels,
    )


def without_nulls(origin: object, document: Any) -> dict[str, Any]:
    """The members of a JSON object without nulls, which mean absent to timm."""
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise CheckpointError(f"{origin}: is {show(document)}; expected settings by name")
    return {str(name): value for name, value in document.items() if value is not None}


def _side(origin: str, size: Any) -> Any:
    """Pixels per side, from ``224``, ``[224, 224]`` or ``[3, 224, 224]``."""
    if not isinstance(size, list | tuple):
        return size
    if len(size) not in {2, 3}:
        raise CheckpointError(
            f"{origin}: input_size is {show(size)}; expected a shape such as [3, 224, 224]"
        )
    height, width = size[-2:]
    if height != width:
        raise CheckpointError(
            f"{origin}: images of {show(height)} x {show(width)}; only square images are supported"
        )
    return height


def _labels(path: Path, document: Mapping[str, Any]) -> dict[str, Any]:
    """Labels and synsets; timm uses synsets as labels where it has them."""
    named = document.get("label_names") or document.get("labels") or document.get("id2label")
    if not named:
        return {}
    names = parse_labels(path, named)
    described = without_nulls(path, document.get("label_descriptions"))
    if all(SYNSET.fullmatch(name) for name in names):
        known = dict(imagenet_labels()) | described
        return {"labels": tuple(known.get(n, n) for n in names), "synsets": names}
    return {"labels": names, "synsets": ()}


@cache
def imagenet_labels() -> tuple[tuple[str, str], ...]:
    """The WordNet id (synset) and the readable name of each class of ImageNet-1k, in order."""
    lines = LABELS.read_text(encoding="utf-8").splitlines()
    return tuple((synset, name) for synset, _, name in (line.partition("\t") for line in lines))
