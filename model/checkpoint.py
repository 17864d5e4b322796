"""Reading and writing checkpoints: a network's weights and the description of the model.

Two forms are read: the project's own ``.safetensors`` files, which hold their description as
metadata, and raw state dicts (``.pt``, ``.pth``, ``.bin``, ``.safetensors``), which
`model.metadata.description` describes. Reading never runs code, and its memory is bounded by a
small multiple of the file's size.

Weights are mapped from the file, not copied: replace a file that is being served by renaming
another one over it, never in place.
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from model.errors import CheckpointError, one_line, show
from model.families.registry import StateDict, add_embedding, build_network
from model.files import replacing
from model.metadata.description import (
    Description,
    Overrides,
    describe_itself,
    describe_raw,
    self_description,
)
from model.metadata.quantisation import QUANTISATION_KEY, Quantisation, read_quantisation
from model.sources.source import Source, find_weights
from model.spec import ModelSpec
from model.weights.container import METADATA_KEY, Contents, read_contents
from model.weights.header import copy_with_metadata
from model.weights.search import COUNTER, as_state, find_network

NO_OVERRIDES = Overrides()
BUNDLED_CHECKPOINT = Path(__file__).parent / "checkpoints" / "xcit-cifar10.safetensors"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A weight file that was read and checked: all keys present, all numbers finite.

    Attributes:
        place: path of the weights inside the file, such as ``state_dict_ema``; empty at top level.
        averaged: whether the weights are an average over training (EMA), judging by ``place``.
        others: places of further networks in the file, which are not used.
        quantisation: the layers to compute in 8-bit integers, if the checkpoint is quantised.
    """

    path: Path
    sha256: str
    description: Description
    state: StateDict
    self_describing: bool = False
    place: str = ""
    averaged: bool = False
    others: tuple[str, ...] = ()
    quantisation: Quantisation | None = None

    @property
    def spec(self) -> ModelSpec:
        return self.description.spec

    @property
    def warnings(self) -> tuple[str, ...]:
        """Reasons why the model is of no use although its file is valid."""
        if self.spec.num_classes != 1:
            return ()
        return ("the model has a single class: every image gets it with a score of 1",)

    def build(self, *, embeds: bool = False) -> nn.Module:
        """The network with these weights, in evaluation mode; ``embeds``: see `add_embedding`."""
        network = build_network(self.spec)
        network.load_state_dict(self.state, assign=True)
        return (add_embedding(network, self.spec.family) if embeds else network).eval()


def read_checkpoint(checkpoint: str | Path, overrides: Overrides = NO_OVERRIDES) -> Checkpoint:
    """Read any supported weight file, from disk or downloaded.

    Args:
        checkpoint: a file, or anything else that `find_weights` accepts.

    Raises:
        CheckpointError: one line that names the file, the key and what was expected.
    """
    source = find_weights(checkpoint)
    path = source.path
    contents = read_contents(path)
    if contents.metadata is None:
        found = _read_raw(source, contents, overrides)
    else:
        state = _check_tensors(path, contents, {**contents.tensors})  # type: ignore[dict-item]
        description = describe_itself(path, contents.metadata, state, overrides)
        sha256 = _checked_sha256(source)
        state = _complete(path, description, state)
        text = contents.extras.get(QUANTISATION_KEY)
        quantisation = None if text is None else read_quantisation(path, text, state)
        found = Checkpoint(
            path, sha256, description, state, self_describing=True, quantisation=quantisation
        )
    for warning in found.warnings:
        logger.warning("%s: %s", path, warning)
    return found


def _read_raw(source: Source, contents: Contents, overrides: Overrides) -> Checkpoint:
    path = source.path
    found = find_network(path, contents)
    state = found.family.adapt(_check_tensors(path, contents, as_state(path, found)))
    description = describe_raw(
        path, found.family, state, overrides, variant=source.variant, root=contents.root
    )
    return Checkpoint(
        path,
        _checked_sha256(source),
        description,
        _complete(path, description, state),
        place=one_line(found.place),
        averaged=found.averaged,
        others=found.others,
    )


def write_checkpoint(
    path: Path,
    spec: ModelSpec,
    state: StateDict,
    *,
    dtype: str = "float32",
    extras: Mapping[str, str] | None = None,
) -> None:
    """Write the self-describing form; ``path`` is replaced whole or not at all.

    Args:
        dtype: type of the floating-point weights on disk: ``float32``, ``bfloat16`` or ``float16``.
        extras: further entries of the metadata.

    Raises:
        CheckpointError: the file cannot be written, or a weight is too large for ``dtype``.
    """
    metadata = {"format": "pt", METADATA_KEY: self_description(spec), **(extras or {})}
    tensors = {key: _cast(path, key, tensor.detach(), dtype) for key, tensor in state.items()}
    try:
        with replacing(path) as partial:
            partial.touch()  # fails with a clear error if the directory is not writable
            save_file(tensors, partial, metadata)
            partial.chmod(0o644)  # safetensors creates it with mode 0600
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror}") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path}: cannot be written: {error}") from error


def rewrite_metadata(source: Path, target: Path, changes: Mapping[str, str | None]) -> None:
    """Copy a safetensors file with changed metadata; see `copy_with_metadata`.

    Args:
        target: replaced whole or not at all; may be ``source``.
        changes: for the description of the model, `METADATA_KEY` and a `self_description`.

    Raises:
        CheckpointError: ``source`` is not a safetensors file, or a file cannot be read or written.
    """
    try:
        with replacing(target) as partial:
            copy_with_metadata(source, partial, changes)
            partial.chmod(0o644)
    except OSError as error:
        failed = "read" if error.filename == str(source) else "written"
        path = source if failed == "read" else target
        raise CheckpointError(f"{path}: cannot be {failed}: {error.strerror}") from error


def write_changed(
    checkpoint: Checkpoint, path: Path, spec: ModelSpec, extras: Mapping[str, str] | None = None
) -> None:
    """Write a copy of a checkpoint with another description; all other metadata stays.

    The weights of a self-describing file are copied byte by byte. Those of another file are written
    in 32 bits.

    Args:
        path: replaced whole or not at all; may be the checkpoint's own file.
        extras: further entries of the metadata.

    Raises:
        CheckpointError: the checkpoint's file has changed, or a file cannot be read or written.
    """
    if not checkpoint.self_describing:
        write_checkpoint(path, spec, checkpoint.state, extras=extras)
        return
    with checkpoint.path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != checkpoint.sha256:
        raise CheckpointError(
            f"{checkpoint.path}: replaced by another file in the meantime; run the command again"
        )
    changes = {METADATA_KEY: self_description(spec), **(extras or {})}
    rewrite_metadata(checkpoint.path, path, changes)


def write_quantised(path: Path, checkpoint: Checkpoint, quantisation: Quantisation) -> None:
    """Write a copy of a checkpoint that is quantised; raises as `write_changed` does."""
    entry = {QUANTISATION_KEY: quantisation.to_json(checkpoint.state)}
    write_changed(checkpoint, path, checkpoint.spec, entry)


def _cast(path: Path, key: str, tensor: Tensor, dtype: str) -> Tensor:
    if tensor.is_floating_point():
        converted = tensor.to(getattr(torch, dtype))
        if not converted.isfinite().all():
            raise CheckpointError(f"{path}: key {show(key)} does not fit in {dtype}; try bfloat16")
        tensor = converted
    return tensor.contiguous()


def _check_tensors(path: Path, contents: Contents, state: StateDict) -> StateDict:
    """Refuse weights that hold more numbers than the file, since the network would be as large."""
    for key, tensor in state.items():
        if tensor.numel() == 0:
            raise CheckpointError(
                f"{path}: key {show(key)} holds no numbers; its shape is {tuple(tensor.shape)}"
            )
    if sum(tensor.nbytes for tensor in state.values()) > contents.size:
        raise CheckpointError(
            f"{path}: its tensors share the same bytes; expected one copy of each"
        )
    return state


def _complete(path: Path, description: Description, state: StateDict) -> StateDict:
    """The network's state as 32-bit floats, with every tensor present, of the right shape and
    finite.

    Batch counters may be absent or of any type: inference never reads them.
    """
    spec = description.spec
    try:
        expected = build_network(spec).state_dict()
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: not a network of family {spec.family}: {reason}") from error
    for key, tensor in state.items():
        if key not in expected and tensor.ndim:  # a scalar is a wrapper's counter
            raise CheckpointError(
                f"{path}: key {show(key)} is unknown to family {spec.family}; "
                "save the network only, without losses, metrics and other heads"
            )
    return {key: _fit(path, key, state.get(key), wanted) for key, wanted in expected.items()}


def _fit(path: Path, key: str, tensor: Tensor | None, wanted: Tensor) -> Tensor:
    if key.endswith(COUNTER):
        return _count(tensor)
    if tensor is None:
        raise CheckpointError(
            f"{path}: key {show(key)} is missing; expected shape {tuple(wanted.shape)}"
        )
    if tensor.shape != wanted.shape or not tensor.is_floating_point():
        raise CheckpointError(
            f"{path}: key {show(key)} is {tensor.dtype} of shape {tuple(tensor.shape)}; "
            f"expected {wanted.dtype} of shape {tuple(wanted.shape)}"
        )
    if tensor.data_ptr() % tensor.itemsize:
        tensor = tensor.clone()  # the older torch.save layout does not align tensors
    tensor = tensor.float()
    if not tensor.isfinite().all():
        raise CheckpointError(
            f"{path}: key {show(key)} holds NaN or infinity; expected finite numbers"
        )
    return tensor


def _count(tensor: Tensor | None) -> Tensor:
    if tensor is None or tensor.numel() != 1 or not tensor.isfinite().all():
        return torch.zeros((), dtype=torch.int64)
    return tensor.reshape(()).to(torch.int64)


def _checked_sha256(source: Source) -> str:
    with source.path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if source.sha256 not in {None, sha256}:
        raise CheckpointError(
            f"{source.path}: its sha256 is {sha256}, expected {source.sha256}: "
            "the download is corrupt; remove the file and try again"
        )
    return sha256
