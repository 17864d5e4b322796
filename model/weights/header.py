"""The header of a safetensors file, changed without touching its tensors."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from model.errors import CheckpointError
from model.weights.container import MAX_HEADER

METADATA = "__metadata__"
LENGTH = 8  # bytes of the header's length, at the start of the file
ALIGNMENT = 8  # of the tensors' first byte, as safetensors writes it


def copy_with_metadata(source: Path, target: Path, changes: Mapping[str, str | None]) -> None:
    """Copy a safetensors file with some entries of its metadata set, or removed if ``None``.

    The tensors are copied byte by byte, and other entries stay.

    Raises:
        CheckpointError: ``source`` is not a safetensors file.
        OSError: a file cannot be read or written.
    """
    with source.open("rb") as file, target.open("wb") as output:
        header = _read_header(source, file)
        metadata = {**header.pop(METADATA, {}), **changes}
        kept = {key: text for key, text in metadata.items() if text is not None}
        whole = {METADATA: kept, **header}
        text = json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % ALIGNMENT)
        if len(text) > MAX_HEADER:
            raise CheckpointError(
                f"{target}: its header would have {len(text)} bytes; "
                f"at most {MAX_HEADER} are allowed"
            )
        output.write(len(text).to_bytes(LENGTH, "little") + text)
        shutil.copyfileobj(file, output)


def _read_header(path: Path, file: IO[bytes]) -> dict[str, Any]:
    """The header; ``file`` is then at the first byte of the tensors."""
    length = int.from_bytes(file.read(LENGTH), "little")
    if length <= MAX_HEADER:
        text = file.read(length)
        try:
            header = json.loads(text)
            if isinstance(header, dict) and isinstance(header.get(METADATA, {}), dict):
                return header
        except (ValueError, RecursionError):
            pass
    raise CheckpointError(f"{path}: not a safetensors file")
