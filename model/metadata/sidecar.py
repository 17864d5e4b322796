"""Small files next to a checkpoint that give labels and preprocessing.

They are read only from the checkpoint's own directory: a link to another place could publish any
file of the machine as class names.
"""

import codecs
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from model.errors import CheckpointError

MAX_BYTES = 2**20
BLANK = " \t\v\f\ufeff"  # includes the byte order mark, which concatenated files contain
# longer marks first: the UTF-32 mark starts with the UTF-16 one
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def find_labels(checkpoint: Path) -> Path | None:
    """``NAME.labels.txt``, ``NAME.labels.json``, ``labels.txt`` or ``labels.json`` next to it."""
    return _find(checkpoint, "labels.txt", "labels.json")


def find_preprocess(checkpoint: Path) -> Path | None:
    """``NAME.preprocess.json`` or ``preprocess.json`` next to the checkpoint."""
    return _find(checkpoint, "preprocess.json")


def find_next_to(checkpoint: Path, name: str) -> Path | None:
    """The file or link of that name next to the checkpoint."""
    path = checkpoint.with_name(name)
    return path if os.path.lexists(path) else None


def read_labels(path: Path, checkpoint: Path | None = None) -> tuple[str, ...]:
    """Labels in class order: one per line, a JSON list, or a JSON object ``{"0": "cat", …}``.

    Blank lines are skipped.

    Args:
        checkpoint: as in `read_text`.

    Raises:
        CheckpointError: the file cannot be read or contains no labels.
    """
    text = read_text(path, checkpoint)
    if path.suffix == ".json":
        labels = parse_labels(path, parse_json(path, text))
    else:
        lines = re.split(r"\r\n|\r|\n", text)
        labels = tuple(label for line in lines if (label := line.strip(BLANK)))
    if not labels or not all(labels):
        raise CheckpointError(f"{path}: an empty label; expected one name for each class")
    return labels


def read_preprocess(path: Path, checkpoint: Path | None = None) -> dict[str, Any]:
    """Fields of `PreprocessSpec` from a JSON object, not yet checked."""
    values = parse_json(path, read_text(path, checkpoint))
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


def parse_json(path: Path, text: str) -> Any:
    """Parse a JSON document.

    Raises:
        CheckpointError: it is not JSON, or it is nested too deeply.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from error
    except (RecursionError, ValueError) as error:
        raise CheckpointError(f"{path}: the JSON is nested too deeply or too long") from error


def read_text(path: Path, checkpoint: Path | None = None) -> str:
    """The text of a small file, in UTF-8 or the encoding of its byte order mark.

    Args:
        checkpoint: the checkpoint that the file belongs to. Links must then stay in its directory,
            or in the Hugging Face cache, which consists of links. ``None`` if the user named the
            file.

    Raises:
        CheckpointError: the file cannot be read, is elsewhere, is not text or is over `MAX_BYTES`.
    """
    try:
        real = path.resolve(strict=True)
        if checkpoint and not any(real.is_relative_to(root) for root in _roots(checkpoint)):
            raise CheckpointError(
                f"{path}: a link that leaves its directory; put the file itself there"
            )
        data = _read_small(path, real)
    except (OSError, RuntimeError) as error:  # RuntimeError for circular links
        reason = getattr(error, "strerror", None) or "its links are circular"
        raise CheckpointError(f"{path}: cannot be read: {reason}") from error
    encodings = (name for mark, name in BYTE_ORDER_MARKS.items() if data.startswith(mark))
    try:
        return data.decode(next(encodings, "utf-8"))
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: cannot be read as UTF-8 text") from error


def _find(checkpoint: Path, *names: str) -> Path | None:
    own = (f"{checkpoint.stem}.{name}" for name in names)
    found = (find_next_to(checkpoint, name) for name in (*own, *names))
    return next((path for path in found if path), None)


def _roots(checkpoint: Path) -> list[Path]:
    """Directories in which the files next to ``checkpoint`` may be."""
    directory = checkpoint.parent.resolve()
    repository = directory.parent.parent
    if directory.parent.name == "snapshots" and repository.name.startswith("models--"):
        return [directory, repository / "blobs"]
    return [directory]


def _read_small(path: Path, real: Path) -> bytes:
    """The content of a regular file; opening a pipe does not block."""
    descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise CheckpointError(f"{path}: not a regular file")
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise CheckpointError(f"{path}: over {MAX_BYTES} bytes; expected a small text file")
    return data
