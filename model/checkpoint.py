"""Reading and writing weight files. No file ever runs code here.

Two forms are read. The project's own is one ``.safetensors`` file that describes itself in its
metadata. A raw state dict (``.pt``, ``.pth``, ``.bin`` or bare ``.safetensors``) is described by
`model.description` from its shapes and from what stands beside it.

Weights are mapped from the file, not copied: replace a file that is being served by renaming
another over it, never in place.
"""

import hashlib
import logging
import pickle
import re
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from model.description import (
    Description,
    Overrides,
    describe_itself,
    describe_raw,
    self_description,
)
from model.errors import CheckpointError
from model.families import FAMILIES, Family, StateDict, build_network
from model.source import Source, find_weights
from model.spec import ModelSpec

METADATA_KEY = "xcit"
# where training scripts put the weights, averaged ones first: those are what they evaluate
WRAPPERS = ("state_dict_ema", "model_ema", "teacher", "model", "state_dict")
# what torch.optim.swa_utils.AveragedModel counts beside them
UNUSED = {"n_averaged"}
# what is found in the place of weights, by its first bytes
LOOKALIKES = {
    b"<": ": a web page, as a failed download leaves one",
    b"version ": ": a Git LFS pointer; git lfs pull brings the file itself",
}
NO_OVERRIDES = Overrides()

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A weight file that has been read and found whole: every key there, every number finite."""

    path: Path
    sha256: str
    self_describing: bool
    description: Description
    state: StateDict

    @property
    def spec(self) -> ModelSpec:
        return self.description.spec

    def build(self) -> nn.Module:
        """The network with these weights, in evaluation mode."""
        network = build_network(self.spec)
        network.load_state_dict(self.state, assign=True)
        return network.eval()


def read_checkpoint(checkpoint: str | Path, overrides: Overrides = NO_OVERRIDES) -> Checkpoint:
    """Read any supported weight file, from disk or from where its name leads.

    Args:
        checkpoint: a file, or one of the other things that `find_weights` knows.

    Raises:
        CheckpointError: one line that names the file, the key and what was expected.
    """
    source = find_weights(checkpoint)
    path = source.path
    state, metadata = _read_tensors(path)
    if metadata is None:
        family, state = _recognise(path, state)
        state = family.adapt(state)
        description = describe_raw(path, family, state, source.variant, overrides)
    else:
        description = describe_itself(path, metadata, overrides)
    state = {
        key: tensor.float() if tensor.is_floating_point() else tensor
        for key, tensor in state.items()
    }
    _check_weights(path, description.spec, state)
    return Checkpoint(path, _checked_sha256(source), metadata is not None, description, state)


def write_checkpoint(
    path: Path, spec: ModelSpec, state: StateDict, *, dtype: str = "float32"
) -> None:
    """Write the self-describing form; ``path`` is replaced whole or not at all.

    Args:
        dtype: of the floating-point weights on disk, ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        CheckpointError: the disk refuses, or a weight is too large for ``dtype``.
    """
    metadata = {"format": "pt", METADATA_KEY: self_description(spec)}
    tensors = {key: _narrow(path, key, tensor.detach(), dtype) for key, tensor in state.items()}
    partial = path.with_name(f".{path.name}.partial")
    try:
        save_file(tensors, partial, metadata)
        partial.chmod(0o644)  # it was made for its owner alone
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _narrow(path: Path, key: str, tensor: Tensor, dtype: str) -> Tensor:
    if tensor.is_floating_point():
        narrow = tensor.to(getattr(torch, dtype))
        if not narrow.isfinite().all():
            raise CheckpointError(f"{path}: key {key!r} does not fit into {dtype}; try bfloat16")
        tensor = narrow
    return tensor.contiguous()


def _read_tensors(path: Path) -> tuple[StateDict, str | None]:
    """The state dict of ``path``, and its own description where it has one."""
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    if head[8:] == b"{":
        return _read_safetensors(path)
    if head[:2] == b"PK" or head[:1] == b"\x80":
        return _unwrap(path, _read_pickle(path, mapped=head[:2] == b"PK")), None
    hint = next((hint for start, hint in LOOKALIKES.items() if head.startswith(start)), "")
    raise CheckpointError(
        f"{path}: neither a safetensors nor a PyTorch file; it begins with {head[:8]!r}{hint}"
    )


def _read_safetensors(path: Path) -> tuple[StateDict, str | None]:
    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, not a dictionary
            return state, (file.metadata() or {}).get(METADATA_KEY)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: truncated or corrupt safetensors file: {error}") from error


def _read_pickle(path: Path, *, mapped: bool) -> Any:
    try:
        with torch.serialization.safe_globals([Namespace]):  # training scripts keep their flags
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        if culprit := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise CheckpointError(
                f"{path}: refused: it holds code to run ({culprit[1]}); "
                "expected tensors alone, as torch.save(model.state_dict(), path) writes them"
            ) from error
        raise CheckpointError(f"{path}: corrupt PyTorch file, or not one at all") from error
    except (RuntimeError, EOFError, OSError, ValueError, LookupError) as error:
        raise CheckpointError(f"{path}: truncated or corrupt PyTorch file") from error


def _unwrap(path: Path, payload: Any) -> StateDict:
    """The state dict inside a training payload."""
    for wrapper in WRAPPERS:
        if isinstance(payload, dict) and isinstance(payload.get(wrapper), dict):
            logger.info("%s: weights from its entry %r", path, wrapper)
            payload = payload[wrapper]
    if not isinstance(payload, dict) or not payload:
        raise CheckpointError(f"{path}: expected a dictionary of tensors, by name")
    for key, value in payload.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path}: key {key!r} is of type {type(value).__name__}, expected a tensor"
            )
    return payload


def _recognise(path: Path, state: StateDict) -> tuple[Family, StateDict]:
    """The family of a raw state dict, and the dict without what wrappers put before its keys."""
    for family in FAMILIES.values():
        for key in state:
            prefix, found, rest = key.rpartition(family.signature)
            if found and not rest:
                plain = {k.removeprefix(prefix): v for k, v in state.items() if k not in UNUSED}
                return family, plain
    signatures = " or ".join(f"{f.signature!r} ({f.name})" for f in FAMILIES.values())
    raise CheckpointError(
        f"{path}: of no known family: expected key {signatures}; "
        f"its first key is {next(iter(state), 'missing')!r}"
    )


def _check_weights(path: Path, spec: ModelSpec, state: StateDict) -> None:
    """Every tensor of the network is there, of its shape and finite; and nothing else is."""
    try:
        expected = build_network(spec).state_dict()
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: no {spec.family} network: {error}") from error
    for key in [*expected, *(state.keys() - expected.keys())]:
        if key not in state:
            shape = tuple(expected[key].shape)
            raise CheckpointError(f"{path}: key {key!r} is missing; expected shape {shape}")
        if key not in expected:
            raise CheckpointError(f"{path}: key {key!r} is unknown to family {spec.family}")
        tensor, wanted = state[key], expected[key]
        if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
            raise CheckpointError(
                f"{path}: key {key!r} is {tensor.dtype} of shape {tuple(tensor.shape)}; "
                f"expected {wanted.dtype} of shape {tuple(wanted.shape)}"
            )
        if not tensor.isfinite().all():
            raise CheckpointError(
                f"{path}: key {key!r} holds NaN or infinity; expected finite numbers"
            )


def _checked_sha256(source: Source) -> str:
    with source.path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if source.sha256 not in {None, sha256}:
        raise CheckpointError(
            f"{source.path}: its sha256 is {sha256}, expected {source.sha256}: "
            "a broken download; remove the file and try again"
        )
    return sha256
