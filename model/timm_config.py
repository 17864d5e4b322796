"""What timm says of a checkpoint in the ``config.json`` beside it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import CheckpointError
from model.imagenet import SYNSET, imagenet_labels
from model.sidecar import parse_labels

# What the network here does; anything else that timm can be told to do would change its answers.
SUPPORTED = {"in_chans": 3, "global_pool": "token", "use_pos_embed": True, "crop_mode": "center"}


@dataclass(frozen=True, slots=True)
class TimmConfig:
    """The parts that matter here, in this package's terms. What timm leaves open is absent."""

    path: Path
    name: str
    hyperparameters: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    labels: Mapping[str, Any]


def read_timm_config(checkpoint: Path) -> TimmConfig | None:
    """The ``config.json`` beside ``checkpoint``; ``None`` if there is none of an XCiT.

    Raises:
        CheckpointError: it cannot be read, or asks for what this package does not do.
    """
    path = checkpoint.with_name("config.json")
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if not document.get("architecture", "").startswith("xcit_"):
            return None
        cfg, arguments = document.get("pretrained_cfg", {}), document.get("model_args", {})
        return _parse(path, {**cfg, **document}, {**cfg, **document, **arguments})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: no config.json of timm: {error!r}") from error


def _parse(path: Path, document: Mapping[str, Any], arguments: Mapping[str, Any]) -> TimmConfig:
    for name, supported in SUPPORTED.items():
        if arguments.get(name, supported) != supported:
            raise CheckpointError(
                f"{path}: {name} is {arguments[name]!r}; only {supported!r} can be served"
            )
    preprocess = {
        name: document[name]
        for name in ("interpolation", "crop_pct", "mean", "std")
        if name in document
    }
    size = arguments.get("img_size") or document.get("input_size")
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size[-2:]
        if height != width:
            raise CheckpointError(
                f"{path}: images of {height} x {width}; only squares can be served"
            )
        preprocess["image_size"] = height
    name = document["architecture"]
    if tag := document.get("tag"):
        name = f"{name}.{tag}"
    return TimmConfig(
        path=path,
        name=name,
        hyperparameters={k: arguments[k] for k in ("tokens_norm",) if k in arguments},
        preprocess=preprocess,
        labels=_labels(path, document),
    )


def _labels(path: Path, document: Mapping[str, Any]) -> dict[str, Any]:
    """Labels and synsets: timm names a class by its synset where it has one."""
    told = document.get("label_names") or document.get("labels")
    if not told:
        return {}
    names = parse_labels(path, told)
    described = document.get("label_descriptions") or {}
    if all(SYNSET.fullmatch(name) for name in names):
        known = dict(imagenet_labels()) | described
        return {"labels": tuple(known.get(n, n) for n in names), "synsets": names}
    return {"labels": names, "synsets": ()}
