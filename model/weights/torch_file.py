"""Reading files by ``torch.save`` without executing anything, in memory bounded by their size.

There are two layouts: a zip archive with the pickle ``data.pkl`` and an uncompressed entry for each
storage, and the older one: pickles followed by the storages. Tensors are views of the mapped file.
"""

import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO, FileIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from model.errors import CheckpointError, show
from model.weights.foreign import CodeFound, Foreign
from model.weights.lookalikes import SAVE, name_zip
from model.weights.pickles import MAX_BYTES, read_pickle
from model.weights.stored import STORAGES, Leaf, Storages, read_tensor

MAX_DIRECTORY = 8 * 2**20  # bytes of a zip archive's list of entries
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
LOCAL_HEADER = struct.Struct("<26xHH")  # lengths of an entry's name and its extra field


@dataclass(frozen=True, slots=True)
class TorchFile:
    """The saved object; its tensors are `Foreign` objects that `tensor` builds."""

    payload: Any
    storages: Storages

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        return self.storages.size

    def tensor(self, leaf: Foreign) -> Leaf | None:
        """The tensor that ``leaf`` describes; ``None`` if it describes something else."""
        return read_tensor(leaf, self.storages)


def read_zip(path: Path, size: int) -> TorchFile:
    """Read the archive of ``size`` bytes at ``path``.

    Raises:
        CheckpointError: it is another kind of archive, is corrupt, or would expand when read.
    """
    try:
        with _BoundedReads(path) as file, zipfile.ZipFile(file) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            _check_kind(path, entries)
            top = next(name for name in entries if name.rpartition("/")[2] == "data.pkl")
            top = top.removesuffix("data.pkl")
            places = dict(_places(file, size, top, entries))
            if places.get("byteorder", (0, 0))[1] == len(b"big"):
                raise CheckpointError(f"{path}: written on a big-endian machine; {SAVE}")
            pickle = _read(file, *places["data.pkl"])
    except (zipfile.BadZipFile, ValueError, OSError, struct.error, NotImplementedError) as error:
        raise CheckpointError(f"{path}: truncated or corrupt PyTorch file") from error
    storages = {name.removeprefix("data/"): place for name, place in places.items()}
    payload = _unpickle(path, lambda: read_pickle(BytesIO(pickle)))
    return TorchFile(payload, Storages(path, size, storages))


def read_legacy(path: Path, size: int) -> TorchFile:
    """Read the file of ``size`` bytes at ``path``, in the layout before PyTorch 1.6.

    Raises:
        CheckpointError: as in `read_zip`.
    """
    with path.open("rb") as file:
        magic = _unpickle(path, lambda: read_pickle(file))
        if magic != LEGACY_MAGIC:
            raise CheckpointError(
                f"{path}: a Python pickle that torch.save did not write{_kinds(magic)}; {SAVE}"
            )
        protocol, _, payload, keys = (_unpickle(path, lambda: read_pickle(file)) for _ in range(4))
        if protocol != LEGACY_PROTOCOL or not isinstance(keys, list):
            raise CheckpointError(f"{path}: truncated or corrupt PyTorch file")
        dtypes = dict(_legacy_dtypes(payload))
        places = {}
        for key in keys:
            count = int.from_bytes(file.read(8), "little", signed=True)
            length = count * dtypes.get(key, torch.uint8).itemsize
            if not 0 <= length <= size - file.tell():
                raise CheckpointError(f"{path}: truncated or corrupt PyTorch file")
            places[key] = (file.tell(), length)
            file.seek(length, 1)
    return TorchFile(payload, Storages(path, size, places))


class _BoundedReads(FileIO):
    """A file that refuses to read long directories for `zipfile`."""

    def read(self, size: int | None = -1, /) -> bytes:
        whole = size is None or size < 0
        data = super().read(MAX_DIRECTORY + 1 if whole else size)
        if len(data) > MAX_DIRECTORY or (size or 0) > MAX_DIRECTORY:
            raise zipfile.BadZipFile("the directory is too long")
        return data


def _read(file: FileIO, start: int, length: int) -> bytes:
    if length > MAX_BYTES:
        raise ValueError("the pickle is too long")
    file.seek(start)
    data = b""
    while len(data) < length and (piece := file.read(min(MAX_DIRECTORY, length - len(data)))):
        data += piece
    return data


def _check_kind(path: Path, entries: Mapping[str, zipfile.ZipInfo]) -> None:
    if kind := name_zip(entries):
        raise CheckpointError(f"{path}: {kind}")
    for name, entry in entries.items():
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise CheckpointError(
                f"{path}: its entry {show(name)} is compressed or encrypted, which torch.save "
                f"never does; {SAVE}"
            )


def _places(
    file: FileIO, size: int, top: str, entries: Mapping[str, zipfile.ZipInfo]
) -> Iterator[tuple[str, tuple[int, int]]]:
    """First byte and length of every entry below ``top``, all of them within the file."""
    for name, entry in entries.items():
        if not 0 <= entry.header_offset < size:
            raise ValueError("an entry is outside of the file")
        file.seek(entry.header_offset)
        start = entry.header_offset + 30 + sum(LOCAL_HEADER.unpack(file.read(30)))
        if entry.file_size != entry.compress_size or start + entry.file_size > size:
            raise ValueError("an entry is longer than the file")
        yield name.removeprefix(top), (start, entry.file_size)


def _unpickle(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except CodeFound as error:
        raise CheckpointError(f"{path}: refused: it contains code ({error}); {SAVE}") from error
    except UnpicklingError as error:
        raise CheckpointError(f"{path}: truncated or corrupt PyTorch file") from error


def _kinds(payload: Any) -> str:
    return f" ({payload.name})" if isinstance(payload, Foreign) else ""


def _legacy_dtypes(payload: Any) -> Iterator[tuple[str, torch.dtype]]:
    """The type of each storage that the payload refers to."""
    seen: set[int] = set()
    left = [payload]
    while left:
        node = left.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Foreign):
            match node.name, node.args:
                case "persistent", ("storage", Foreign(kind), str(key), *_):
                    if dtype := STORAGES.get(kind.rpartition(".")[2]):
                        yield key, dtype
            left += [node.args, node.state, node.items]
        elif isinstance(node, dict):
            left += node.values()
        elif isinstance(node, list | tuple):
            left += node
