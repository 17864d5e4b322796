"""What a raw checkpoint does not say itself: labels and preprocessing, from files beside it."""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from model.errors import CheckpointError
from model.spec import PreprocessSpec


def find_labels(checkpoint: Path) -> Path | None:
    """``NAME.labels.txt``, ``NAME.labels.json``, ``labels.txt`` or ``labels.json`` beside it."""
    return _find(checkpoint, "labels.txt", "labels.json")


def find_preprocess(checkpoint: Path) -> Path | None:
    """``NAME.preprocess.json`` or ``preprocess.json`` beside the checkpoint."""
    return _find(checkpoint, "preprocess.json")


def read_labels(path: Path) -> tuple[str, ...]:
    """Labels in the order of the classes: one a line, a JSON list, or JSON ``{"0": "cat", …}``.

    Raises:
        CheckpointError: the file cannot be read or holds no labels.
    """
    text = _read_text(path)
    labels = _parse_json_labels(path, text) if path.suffix == ".json" else _parse_lines(text)
    if not labels or not all(labels):
        raise CheckpointError(f"{path}: an empty label; expected one name for each class")
    return labels


def read_preprocess(path: Path) -> dict[str, Any]:
    """Fields of `PreprocessSpec` from a JSON object, not yet checked."""
    values = _parse_json(path, _read_text(path))
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object of preprocessing settings")
    return values


def build_preprocess(source: str, image_size: int, values: Mapping[str, Any]) -> PreprocessSpec:
    """A `PreprocessSpec` for ``image_size`` of the given ``values``, defaults for the others.

    Raises:
        CheckpointError: an unknown field or a value out of range, told as ``source``'s fault.
    """
    known = {field.name for field in fields(PreprocessSpec)}
    for name in values:
        if name not in known:
            raise CheckpointError(
                f"{source}: unknown preprocessing field {name!r}; known are {sorted(known)}"
            )
    if values.get("image_size", image_size) != image_size:
        raise CheckpointError(
            f"{source}: image_size is {values['image_size']}; "
            f"this checkpoint's positions are learned for {image_size}"
        )
    try:
        triples = {name: tuple(values[name]) for name in ("mean", "std") if name in values}
        return PreprocessSpec(**{**values, **triples, "image_size": image_size})
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: bad preprocessing: {error}") from error


def _find(checkpoint: Path, *names: str) -> Path | None:
    candidates = [checkpoint.with_name(f"{checkpoint.stem}.{name}") for name in names]
    candidates += [checkpoint.with_name(name) for name in names]
    return next((path for path in candidates if path.is_file()), None)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read as UTF-8 text: {error}") from error


def _parse_lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.rstrip().splitlines())


def _parse_json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from error


def _parse_json_labels(path: Path, text: str) -> tuple[str, ...]:
    labels = _parse_json(path, text)
    if isinstance(labels, dict) and set(labels) == {str(i) for i in range(len(labels))}:
        labels = [labels[str(i)] for i in range(len(labels))]
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise CheckpointError(
            f'{path}: expected a JSON list of names, or an object {{"0": "first name", …}}'
        )
    return tuple(labels)
