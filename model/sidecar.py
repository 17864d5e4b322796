"""What a raw checkpoint does not say itself: labels and preprocessing, from files beside it."""

import json
from pathlib import Path
from typing import Any

from model.errors import CheckpointError


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
    if path.suffix == ".json":
        labels = parse_labels(path, _parse_json(path, text))
    else:
        labels = tuple(line.strip() for line in text.rstrip().splitlines())
    if not labels or not all(labels):
        raise CheckpointError(f"{path}: an empty label; expected one name for each class")
    return labels


def read_preprocess(path: Path) -> dict[str, Any]:
    """Fields of `PreprocessSpec` from a JSON object, not yet checked."""
    values = _parse_json(path, _read_text(path))
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object of preprocessing settings")
    return values


def parse_labels(path: Path, labels: Any) -> tuple[str, ...]:
    """Labels from a JSON list, or from an object ``{"0": "cat", …}`` without gaps."""
    if isinstance(labels, dict) and set(labels) == {str(i) for i in range(len(labels))}:
        labels = [labels[str(i)] for i in range(len(labels))]
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise CheckpointError(
            f'{path}: expected a JSON list of names, or an object {{"0": "first name", …}}'
        )
    return tuple(labels)


def _find(checkpoint: Path, *names: str) -> Path | None:
    candidates = [checkpoint.with_name(f"{checkpoint.stem}.{name}") for name in names]
    candidates += [checkpoint.with_name(name) for name in names]
    return next((path for path in candidates if path.is_file()), None)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read as UTF-8 text: {error}") from error


def _parse_json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from error
