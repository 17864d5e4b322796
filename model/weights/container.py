"""Reading the tensors of a weight file by name, for all file formats.

Nothing in a file is executed, and the cost of reading it is bounded by its size: numbers are
mapped, never inflated, and no tensor is larger than its bytes in the file.
"""

import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from model.errors import CheckpointError
from model.weights.foreign import Foreign
from model.weights.lookalikes import HEAD, SAVE, name_file
from model.weights.stored import Leaf
from model.weights.torch_file import TorchFile, read_legacy, read_zip

METADATA_KEY = "xcit"
MAX_HEADER = 8 * 2**20  # bytes of a safetensors header, enough for 50,000 tensors
MAX_DEPTH = 32  # of nested dictionaries and lists
MAX_PATH = 1000  # characters of the keys that lead to a tensor
MAX_TENSORS = 20_000  # the largest XCiT has 900, and its optimiser twice as many
PICKLE = b"\x80"
ZIP = b"PK\x03\x04"


@dataclass(frozen=True, slots=True)
class Contents:
    """The content of a weight file.

    Attributes:
        tensors: by path: the keys of the enclosing dictionaries and lists, joined by dots.
        metadata: the file's description of the model, if it has one.
        extras: other texts in the metadata of a safetensors file, by name.
        root: members of the outermost dictionary that are not tensors.
        objects: Python classes of other objects in the file.
    """

    size: int
    tensors: Mapping[str, Leaf]
    metadata: str | None = None
    root: Mapping[str, Any] = field(default_factory=dict)
    objects: tuple[str, ...] = ()
    extras: Mapping[str, str] = field(default_factory=dict)


def read_contents(path: Path) -> Contents:
    """Read a weight file.

    Raises:
        CheckpointError: it cannot be read, or is another kind of file, which the message names.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path}: not a regular file")
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    if head[8:9] == b"{":
        return _read_safetensors(path, status.st_size, int.from_bytes(head[:8], "little"))
    if head.startswith(ZIP):
        return _read_torch(read_zip(path, status.st_size))
    if head.startswith(PICKLE):
        return _read_torch(read_legacy(path, status.st_size))
    raise CheckpointError(
        f"{path}: expected a safetensors or PyTorch file, found {name_file(head)}"
    )


def looks_like_weights(path: Path) -> bool:
    """Whether the first bytes are those of a format that `read_contents` reads."""
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:9] == b"{" or head.startswith((ZIP, PICKLE))


def _read_safetensors(path: Path, size: int, header: int) -> Contents:
    if header > size - 8:
        raise CheckpointError(f"{path}: truncated or corrupt safetensors file")
    if header > MAX_HEADER:
        raise CheckpointError(
            f"{path}: its safetensors header has {header} bytes; at most {MAX_HEADER} are allowed"
        )
    try:
        with safe_open(path, framework="pt") as file:
            keys = file.keys()
            _check_count(path, len(keys))
            tensors = {key: file.get_tensor(key) for key in keys}
            extras = dict(file.metadata() or {})
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: truncated or corrupt safetensors file") from error
    metadata = extras.pop(METADATA_KEY, None)
    return Contents(size, tensors, metadata, extras=extras)


def _check_count(path: Path, tensors: int) -> None:
    if tensors > MAX_TENSORS:
        raise CheckpointError(f"{path}: it has over {MAX_TENSORS:,} tensors; {SAVE}")


def _read_torch(file: TorchFile) -> Contents:
    tensors: dict[str, Leaf] = {}
    objects: set[str] = set()
    for name, leaf in _walk(file.payload):
        tensor = file.tensor(leaf)
        if tensor is None:
            objects.add(leaf.name)
        else:
            tensors[name] = tensor
            _check_count(file.storages.path, len(tensors))
    root = file.payload if isinstance(file.payload, dict) else {}
    return Contents(file.size, tensors, None, root, tuple(sorted(objects)))


def _walk(payload: Any) -> Iterator[tuple[str, Foreign]]:
    """Yield every object in the file with its path; visit each container once."""
    seen: set[int] = set()
    entered = [iter([("", payload)])]
    while entered:
        path, node = next(entered[-1], ("", None))
        if node is None:
            entered.pop()
        elif isinstance(node, Foreign) and node.items is None:
            yield path, node
        elif _is_container(node) and id(node) not in seen and len(entered) <= MAX_DEPTH:
            seen.add(id(node))
            entered.append(_members(path, node))


def _is_container(node: Any) -> bool:
    """Whether it has members."""
    return isinstance(node, Foreign) or (isinstance(node, dict | list | tuple) and len(node) > 0)


def _members(path: str, node: Any) -> Iterator[tuple[str, Any]]:
    """The members of a container that may lead to a tensor, with their paths."""
    if isinstance(node, Foreign):
        node = node.items
    named = node.items() if isinstance(node, dict) else enumerate(node)
    for key, member in named:
        if _is_container(member) and len(path) + len(str(key)) < MAX_PATH:
            yield f"{path}.{key}" if path else str(key), member
