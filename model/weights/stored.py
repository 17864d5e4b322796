"""Tensors of a file by ``torch.save``: views of the mapped file, never larger than it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.weights.foreign import Foreign

MAX_DIMENSIONS = 8
MAX_WRAPPERS = 8  # around a tensor: a parameter, a subclass
STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}
DTYPES = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
SPARSE = "a sparse tensor"
QUANTISED = "a quantised tensor"
NUMPY = "a NumPy array, not a tensor"
EMPTY = "a tensor without numbers"
NEGATED = "a tensor that is negated lazily"
# advice for each kind of tensor that is not plain
REMEDIES = {
    SPARSE: "save tensor.to_dense()",
    QUANTISED: "save tensor.dequantize()",
    NEGATED: "save tensor.resolve_neg()",
    NUMPY: "save torch.from_numpy(array)",
    EMPTY: "merge the shards of DeepSpeed ZeRO 3: python zero_to_fp32.py DIRECTORY OUTPUT",
}
# functions that build tensors, and what they build if it is not a plain tensor
REBUILD = "torch._utils._rebuild_"
PARAMETERS = {
    f"{REBUILD}{kind}"
    for kind in ("parameter", "parameter_with_state", "device_tensor_from_cpu_tensor")
}
OTHER_TENSORS = {
    f"{REBUILD}sparse_tensor": SPARSE,
    f"{REBUILD}sparse_csr_tensor": SPARSE,
    f"{REBUILD}qtensor": QUANTISED,
    f"{REBUILD}meta_tensor_no_storage": "on the meta device, without numbers",
    f"{REBUILD}nested_tensor": "a nested tensor",
    f"{REBUILD}wrapper_subclass": "a tensor subclass that only its library can read",
    "numpy.core.multiarray._reconstruct": NUMPY,
    "numpy._core.multiarray._reconstruct": NUMPY,
}


@dataclass(frozen=True, slots=True)
class NotPlain:
    """A stand-in for a tensor that is not a plain one in memory."""

    what: str

    @property
    def remedy(self) -> str:
        """Advice for the user."""
        return REMEDIES.get(self.what, "expected a plain tensor")


Leaf = Tensor | NotPlain


class NotPlainError(Exception):
    """A tensor cannot be read; the text says what it is."""


@dataclass(slots=True)
class Storages:
    """First byte and length of each storage in the file, by key."""

    path: Path
    size: int
    places: Mapping[str, tuple[int, int]]
    _mapped: Any = field(default=None)

    def bytes_of(self, start: int, length: int) -> torch.UntypedStorage:
        if self._mapped is None:
            self._mapped = torch.UntypedStorage.from_file(
                str(self.path), shared=False, nbytes=self.size
            )
        return self._mapped[start : start + length]


def read_tensor(leaf: Foreign, storages: Storages) -> Leaf | None:
    """Build the tensor that ``leaf`` describes; ``None`` if it does not describe a tensor."""
    try:
        return _build(leaf, storages)
    except NotPlainError as error:
        return NotPlain(str(error))


def _build(leaf: Foreign, storages: Storages) -> Tensor | None:
    name, args = _unwrap(leaf)
    if name in OTHER_TENSORS:
        raise NotPlainError(OTHER_TENSORS[name])
    if not name.startswith((REBUILD, "torch._tensor.")):
        return None
    match name.removeprefix(REBUILD), args:
        case ("tensor" | "tensor_v2", (Foreign() as storage, offset, size, stride, *rest)):
            _refuse_negated(rest[2:])
            return _view(storages, storage, None, offset, size, stride)
        case (
            "tensor_v3",
            (Foreign() as storage, offset, size, stride, _, _, Foreign(dtype), *rest),
        ):
            _refuse_negated(rest)
            return _view(storages, storage, dtype, offset, size, stride)
    raise NotPlainError("a tensor of an unsupported kind")


def _refuse_negated(rest: Sequence[Any]) -> None:
    """Refuse tensors whose sign is stored as a separate flag."""
    if any(isinstance(bits, dict) and bits.get("neg") for bits in rest):
        raise NotPlainError(NEGATED)


def _unwrap(leaf: Foreign) -> tuple[str, Any]:
    """The function that builds the tensor itself, and its arguments, without wrappers."""
    name, args = leaf.name, leaf.args
    for _ in range(MAX_WRAPPERS):
        match name, args:
            case "torch._tensor._rebuild_from_type_v2", (Foreign(inner), _, inner_args, *_):
                name, args = inner, inner_args
            case _, (Foreign(inner, inner_args), *_) if name in PARAMETERS:
                name, args = inner, inner_args
            case _:
                break
    return name, args


def _view(
    storages: Storages, storage: Foreign, named: str | None, offset: Any, size: Any, stride: Any
) -> Tensor:
    """A tensor in the mapped file, with every number inside the file and none used twice."""
    dtype, (start, length) = _locate(storages, storage)
    dtype = DTYPES.get(named, dtype) if named else dtype
    size, stride = _tuple(size), _tuple(stride)
    numbers = (offset, *size, *stride)
    if not all(type(n) is int and n >= 0 for n in numbers) or len(size) != len(stride):
        raise NotPlainError("a tensor of an impossible shape")
    if len(size) > MAX_DIMENSIONS or 0 in size:
        raise NotPlainError(EMPTY if 0 in size else "a tensor of too many dimensions")
    reach = _reach(size, stride)
    if offset + reach >= length // dtype.itemsize:
        raise NotPlainError("a tensor larger than its data in the file")
    found = storages.bytes_of(start + offset * dtype.itemsize, (reach + 1) * dtype.itemsize)
    return torch.empty(0, dtype=dtype).set_(found, 0, size, stride)


def _reach(size: Sequence[int], stride: Sequence[int]) -> int:
    """Distance from the first to the last number; refuses numbers that overlap."""
    reach = 0
    for step, count in sorted(zip(stride, size, strict=True)):
        if count > 1 and step <= reach:
            raise NotPlainError("a tensor whose elements overlap in memory")
        reach += (count - 1) * step
    return reach


def _tuple(value: Any) -> tuple[Any, ...]:
    if isinstance(value, Foreign) and value.name == "torch.Size" and value.args:
        value = value.args[0]
    return value if isinstance(value, tuple) else (None,)


def _locate(storages: Storages, storage: Foreign) -> tuple[torch.dtype, tuple[int, int]]:
    match storage.name, storage.args:
        case "persistent", ("storage", Foreign(kind), str(key), _, int(count), *view):
            dtype = STORAGES.get(kind.rpartition(".")[2])
            if dtype is None:
                raise NotPlainError(f"of type {kind}")
            if key not in storages.places:
                raise NotPlainError("a tensor whose numbers are missing")
            start, length = storages.places[key]
            if view and view[0] is not None:
                start, length = _part(start, length, view[0], dtype.itemsize)
            if not 0 <= count * dtype.itemsize <= length:
                raise NotPlainError("a tensor larger than its data in the file")
            return dtype, (start, length)
    raise NotPlainError("a tensor of an unsupported kind")


def _part(start: int, length: int, view: Any, itemsize: int) -> tuple[int, int]:
    """A part of another storage, in the older layout."""
    match view:
        case (_, int(offset), int(count)) if (offset + count) * itemsize <= length:
            if min(offset, count) >= 0:
                return start + offset * itemsize, count * itemsize
    raise NotPlainError("a tensor larger than its data in the file")
