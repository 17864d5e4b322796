"""Reading and writing weight files. No file ever runs code here.

Two forms are read. The project's own is one ``.safetensors`` file that describes itself in its
metadata. A raw state dict (``.pt``, ``.pth`` or bare ``.safetensors``) has its hyper-parameters
inferred from shapes, and its labels and preprocessing taken from the caller or from sidecar files.
"""

import hashlib
import json
import logging
import pickle
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from model.errors import CheckpointError
from model.families import FAMILIES, Family, StateDict, build_network
from model.sidecar import (
    build_preprocess,
    find_labels,
    find_preprocess,
    read_labels,
    read_preprocess,
)
from model.spec import ModelSpec

FORMAT_VERSION = 1
METADATA_KEY = "xcit"
WRAPPERS = ("model", "state_dict")
PREFIXES = ("module.", "_orig_mod.")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A weight file that has been read and found whole: every key there, every number finite."""

    path: Path
    sha256: str
    self_describing: bool
    spec: ModelSpec
    state: StateDict

    def build(self) -> nn.Module:
        """The network with these weights, in evaluation mode."""
        network = build_network(self.spec)
        network.load_state_dict(self.state, assign=True)
        return network.eval()


def read_checkpoint(
    path: Path, *, labels: Path | None = None, preprocess: Mapping[str, Any] | None = None
) -> Checkpoint:
    """Read any supported weight file.

    Args:
        labels: file of class names; wins over the file's own and over sidecars.
        preprocess: fields of `PreprocessSpec`; each wins over the file's own and over sidecars.

    Raises:
        CheckpointError: one line that names the file, the key and what was expected.
    """
    state, metadata = _read_tensors(path)
    spec = _infer_spec(path, state) if metadata is None else _parse_spec(path, metadata)
    spec = _override(spec, labels, preprocess)
    state = {
        key: tensor.float() if tensor.is_floating_point() else tensor
        for key, tensor in state.items()
    }
    _check_weights(path, spec, state)
    _check_label_count(path, spec, labels)
    return Checkpoint(path, _sha256(path), metadata is not None, spec, state)


def write_checkpoint(path: Path, spec: ModelSpec, state: StateDict) -> None:
    """Write the self-describing form; ``path`` is replaced whole or not at all."""
    document = {"format_version": FORMAT_VERSION, **asdict(spec)}
    metadata = {"format": "pt", METADATA_KEY: json.dumps(document, ensure_ascii=False)}
    tensors = {key: tensor.detach().contiguous() for key, tensor in state.items()}
    partial = path.with_name(f".{path.name}.partial")
    try:
        save_file(tensors, partial, metadata)
        partial.chmod(0o644)  # it was made for its owner alone
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


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
        return _unwrap(path, _read_pickle(path)), None
    raise CheckpointError(
        f"{path}: neither a safetensors nor a PyTorch file; it begins with {head[:8]!r}"
    )


def _read_safetensors(path: Path) -> tuple[StateDict, str | None]:
    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, not a dictionary
            return state, (file.metadata() or {}).get(METADATA_KEY)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: truncated or corrupt safetensors file: {error}") from error


def _read_pickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
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
    """The state dict inside a training payload, without the prefixes that wrappers leave."""
    for wrapper in WRAPPERS:
        if isinstance(payload, dict) and isinstance(payload.get(wrapper), dict):
            payload = payload[wrapper]
    if not isinstance(payload, dict) or not payload:
        raise CheckpointError(f"{path}: expected a dictionary of tensors, by name")
    for key, value in payload.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path}: key {key!r} is of type {type(value).__name__}, expected a tensor"
            )
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in payload):
            payload = {key.removeprefix(prefix): value for key, value in payload.items()}
    return payload


def _infer_spec(path: Path, state: StateDict) -> ModelSpec:
    family = _recognise(path, state)
    try:
        hyperparameters = family.infer(state)
    except KeyError as error:
        raise CheckpointError(
            f"{path}: key {error} is missing; every checkpoint of family {family.name} has it"
        ) from error
    except (ValueError, LookupError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path}: odd shapes for family {family.name}: {error}") from error

    source, values = "defaults", {}
    if found := find_preprocess(path):
        source, values = str(found), read_preprocess(found)
    labels = tuple(f"class_{i}" for i in range(int(hyperparameters["num_classes"])))
    if found := find_labels(path):
        labels = read_labels(found)
    preprocess = build_preprocess(source, int(hyperparameters["image_size"]), values)
    logger.info("%s does not describe itself: preprocessing from %s", path, source)
    return ModelSpec(
        name=path.stem,
        version="1",
        family=family.name,
        hyperparameters=hyperparameters,
        preprocess=preprocess,
        labels=labels,
    )


def _recognise(path: Path, state: StateDict) -> Family:
    for family in FAMILIES.values():
        if family.signature in state:
            return family
    signatures = " or ".join(f"{f.signature!r} ({f.name})" for f in FAMILIES.values())
    raise CheckpointError(
        f"{path}: of no known family: expected key {signatures}; "
        f"its first key is {next(iter(state), 'missing')!r}"
    )


def _parse_spec(path: Path, metadata: str) -> ModelSpec:
    try:
        document = json.loads(metadata)
        version = document.pop("format_version")
        if version != FORMAT_VERSION:
            raise CheckpointError(
                f"{path}: format_version is {version}; this release reads {FORMAT_VERSION}"
            )
        if document["family"] not in FAMILIES:
            raise CheckpointError(
                f"{path}: family is {document['family']!r}; known are {list(FAMILIES)}"
            )
        values = document.pop("preprocess")
        labels = tuple(document.pop("labels"))
        preprocess = build_preprocess(str(path), values["image_size"], values)
        return ModelSpec(**document, preprocess=preprocess, labels=labels)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: metadata {METADATA_KEY!r} is no description of a model: {error!r}"
        ) from error


def _override(
    spec: ModelSpec, labels: Path | None, preprocess: Mapping[str, Any] | None
) -> ModelSpec:
    """``spec`` with the caller's choices."""
    if preprocess:
        values = {**asdict(spec.preprocess), **preprocess}
        merged = build_preprocess("settings", spec.preprocess.image_size, values)
        spec = replace(spec, preprocess=merged)
    if labels:
        spec = replace(spec, labels=read_labels(labels))
    return spec


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


def _check_label_count(path: Path, spec: ModelSpec, labels: Path | None) -> None:
    classes = spec.hyperparameters["num_classes"]
    if spec.num_classes != classes:
        source = labels or find_labels(path) or path
        raise CheckpointError(
            f"{source}: {spec.num_classes} labels for the {classes} classes of {path}"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
