"""Small files beside a checkpoint, and what is learned from them: labels and preprocessing.

They are read only where the checkpoint lies: a link that leads elsewhere could serve any file of
the machine as the name of a class.
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
BLANK = " \t\v\f\ufeff"  # the last is a byte order mark, which joined files have inside
# the longer marks first: that of UTF-32 begins with that of UTF-16
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def find_labels(checkpoint: Path) -> Path | None:
    """``NAME.labels.txt``, ``NAME.labels.json``, ``labels.txt`` or ``labels.json`` beside it."""
    return _find(checkpoint, "labels.txt", "labels.json")


def find_preprocess(checkpoint: Path) -> Path | None:
    """``NAME.preprocess.json`` or ``preprocess.json`` beside the checkpoint."""
    return _find(checkpoint, "preprocess.json")


def find_beside(checkpoint: Path, name: str) -> Path | None:
    """The file or link of that name beside the checkpoint."""
    path = checkpoint.with_name(name)
    return path if os.path.lexists(path) else None


def read_labels(path: Path, beside: Path | None = None) -> tuple[str, ...]:
    """Labels in the order of the classes: one a line, a JSON list, or JSON ``{"0": "cat", …}``.

    Blank lines are skipped.

    Args:
        beside: as in `read_text`.

    Raises:
        CheckpointError: the file cannot be read or holds no labels.
    """
    text = read_text(path, beside)
    if path.suffix == ".json":
        labels = parse_labels(path, parse_json(path, text))
    else:
        lines = re.split(r"\r\n|\r|\n", text)
        labels = tuple(label for line in lines if (label := line.strip(BLANK)))
    if not labels or not all(labels):
        raise CheckpointError(f"{path}: an empty label; expected one name for each class")
    return labels


def read_preprocess(path: Path, beside: Path | None = None) -> dict[str, Any]:
    """Fields of `PreprocessSpec` from a JSON object, not yet checked."""
    values = parse_json(path, read_text(path, beside))
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
    """What a JSON document says.

    Raises:
        CheckpointError: it is not JSON, or nested too deep.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from error
    except (RecursionError, ValueError) as error:
        raise CheckpointError(f"{path}: JSON that is nested too deep or too long") from error


def read_text(path: Path, beside: Path | None = None) -> str:
    """The text of a small file: UTF-8, or what its byte order mark says.

    Args:
        beside: the checkpoint that the file belongs to. Its links then lead to no other directory,
            but for the Hugging Face cache, whose files are links to another part of it. ``None``
            where the user named the file.

    Raises:
        CheckpointError: it cannot be read, lies elsewhere, is not text or has over `MAX_BYTES`.
    """
    try:
        real = path.resolve(strict=True)
        if beside and not any(real.is_relative_to(root) for root in _roots(beside)):
            raise CheckpointError(
                f"{path}: a link that leads out of its directory; put the file itself there"
            )
        data = _read_small(path, real)
    except (OSError, RuntimeError) as error:  # the latter for links that lead in circles
        reason = getattr(error, "strerror", None) or "links lead in a circle"
        raise CheckpointError(f"{path}: cannot be read: {reason}") from error
    encodings = (name for mark, name in BYTE_ORDER_MARKS.items() if data.startswith(mark))
    try:
        return data.decode(next(encodings, "utf-8"))
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: cannot be read as UTF-8 text") from error


def _find(checkpoint: Path, *names: str) -> Path | None:
    own = (f"{checkpoint.stem}.{name}" for name in names)
    found = (find_beside(checkpoint, name) for name in (*own, *names))
    return next((path for path in found if path), None)


def _roots(checkpoint: Path) -> list[Path]:
    """Where the files beside ``checkpoint`` may lie."""
    directory = checkpoint.parent.resolve()
    repository = directory.parent.parent
    if directory.parent.name == "snapshots" and repository.name.startswith("models--"):
        return [directory, repository / "blobs"]
    return [directory]


def _read_small(path: Path, real: Path) -> bytes:
    """All of a regular file; opening does not wait for the other end of a pipe."""
    descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise CheckpointError(f"{path}: not a regular file")
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise CheckpointError(f"{path}: over {MAX_BYTES} bytes; no such file needs as many")
    return data
