"""Describing a checkpoint from everything that is known about it, with the origin of each value.

A file of the project's own form contains its description. For a raw state dict, each value comes
from the last of these that has it: a default, the weights, the file name, the name of a published
variant, the arguments of the training script, timm's ``config.json``, a sidecar file. The caller's
overrides win over all of them, but nothing overrides the shapes of the weights.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from inspect import signature
from pathlib import Path
from typing import Any

from model.errors import CheckpointError, show
from model.families.registry import FAMILIES, Family, Hyperparameters, StateDict
from model.metadata.facts import (
    NOTHING,
    Facts,
    learn_from_names,
    learn_from_sidecars,
    learn_from_timm,
    learn_from_weights,
)
from model.metadata.reference import usable_reference
from model.metadata.sidecar import parse_json, read_labels
from model.scores import ONE, steps_from_json
from model.spec import ModelSpec, PreprocessSpec

FORMAT_VERSION = 1
DEFAULT_IMAGE_SIZE = 224
OPTIONAL = {"synsets", "provenance", "temperature", "gap_temperatures"}  # of the metadata

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Overrides:
    """The caller's choices, which override the files.

    Attributes:
        labels: file of class names.
        image_size: pixels per side, for networks whose positions fit any grid.
        preprocess: fields of `PreprocessSpec`.
        hyperparameters: keyword arguments of the family's network that weights do not determine.
        temperature: of the scores, at any distance to the best logit.
        headless: whether a backbone without its classifier is accepted.
    """

    labels: Path | None = None
    image_size: int | None = None
    preprocess: Mapping[str, Any] | None = None
    hyperparameters: Mapping[str, Any] | None = None
    temperature: float | None = None
    headless: bool = False

    @property
    def all_preprocess(self) -> Mapping[str, Any]:
        size = {} if self.image_size is None else {"image_size": self.image_size}
        return {**(self.preprocess or {}), **size}


@dataclass(frozen=True, slots=True)
class Description:
    """A spec, and the origin of each value by name: ``labels``, ``depth``, ``preprocess.mean``."""

    spec: ModelSpec
    origins: Mapping[str, str]


def describe_raw(
    path: Path,
    family: Family,
    state: StateDict,
    overrides: Overrides,
    *,
    variant: str | None = None,
    root: Mapping[str, Any] = NOTHING,
) -> Description:
    """Describe a raw state dict.

    Args:
        variant: the name of the published variant that was requested, if any.
        root: other members of the checkpoint; see `model.weights.container.Contents`.

    Raises:
        CheckpointError: the values do not fit together; the message names the file.
    """
    facts = Facts()
    preprocess = asdict(PreprocessSpec(image_size=DEFAULT_IMAGE_SIZE))
    facts.learn("default", version="1", temperature=1.0, preprocess=preprocess)
    inferred = learn_from_weights(facts, path, family, state, headless=overrides.headless)
    learn_from_names(facts, path, variant)
    if family.name == "published":
        learn_from_timm(facts, path, root)
    learn_from_sidecars(facts, path)
    description = _build_description(path, facts, family, inferred, overrides)

    used = {description.origins[f"preprocess.{field.name}"] for field in fields(PreprocessSpec)}
    logger.info("%s does not describe itself: preprocessing from %s", path, ", ".join(sorted(used)))
    return description


def describe_itself(
    path: Path, metadata: str, state: StateDict, overrides: Overrides
) -> Description:
    """Describe a file of the project's own form.

    Raises:
        CheckpointError: this release cannot read the description, or the weights contradict it.
    """
    document = parse_json(path, metadata)
    if not isinstance(document, dict):
        raise CheckpointError(f"{path}: its metadata is {show(document)}; expected a JSON object")
    version = document.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format_version is {show(version)}; this release reads {FORMAT_VERSION}"
        )
    family = FAMILIES.get(str(document.get("family")))
    if family is None:
        raise CheckpointError(
            f"{path}: family is {show(document.get('family'))}; known are {', '.join(FAMILIES)}"
        )
    facts = Facts()
    facts.learn("default", temperature=1.0)
    inferred = learn_from_weights(facts, path, family, state, headless=overrides.headless)
    reference = document.pop("reference", None)
    facts.learn("metadata", **_checked_document(path, document))
    described = _build_description(path, facts, family, inferred, overrides)
    usable = usable_reference(path, reference, document, described.spec)
    return replace(described, spec=replace(described.spec, reference=usable))


def _checked_document(path: Path, document: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `ModelSpec` in the metadata, checked for their types."""
    kinds: dict[str, Any] = dict.fromkeys(("name", "version", "family"), str)
    kinds |= {"labels": list, "synsets": list, "temperature": int | float}
    kinds["gap_temperatures"] = list
    kinds |= dict.fromkeys(("hyperparameters", "preprocess", "provenance"), dict)
    for name, value in document.items():
        if name not in kinds or not isinstance(value, kinds[name]):
            raise CheckpointError(
                f"{path}: its metadata is not the description of a model: {show(name)} is "
                f"{show(value)}; expected {', '.join(kinds)}"
            )
    for name in kinds.keys() - OPTIONAL:
        if name not in document:
            raise CheckpointError(
                f"{path}: its metadata is not the description of a model: {name} is missing"
            )
    whole = {"synsets": (), **document}
    return {n: steps_from_json(v) if isinstance(v, list) else v for n, v in whole.items()}


def self_description(spec: ModelSpec) -> str:
    """The metadata that `describe_itself` reads; without a reference of another temperature."""
    document = {"format_version": FORMAT_VERSION, **asdict(spec)}
    # Older releases have no temperatures and no reference, and can read files without.
    if spec.temperatures == ONE:
        del document["temperature"], document["gap_temperatures"]
    if spec.reference and spec.reference.temperatures == spec.temperatures:
        document["reference"] = spec.reference.to_json()
    else:
        del document["reference"]
    return json.dumps(document, ensure_ascii=False)


def _build_description(
    path: Path, facts: Facts, family: Family, inferred: Hyperparameters, overrides: Overrides
) -> Description:
    """The spec from the collected facts and the caller's overrides."""
    facts.learn(
        "settings",
        hyperparameters=overrides.hyperparameters or NOTHING,
        preprocess=overrides.all_preprocess,
    )
    if overrides.temperature is not None:
        facts.learn("settings", temperature=overrides.temperature, gap_temperatures=())
    if overrides.labels:
        facts.learn(str(overrides.labels), labels=read_labels(overrides.labels), synsets=())
    _check_hyperparameters(path, facts, family, inferred)
    preprocess = _build_preprocess(path, facts)
    try:
        spec = ModelSpec(
            **facts.model, hyperparameters=facts.hyperparameters, preprocess=preprocess
        )
    except CheckpointError as error:
        raise CheckpointError(f"{_origin(path, facts, str(error))}: {error}") from error
    _check_image_size(path, spec, facts.origins["preprocess.image_size"])
    classes = spec.hyperparameters["num_classes"]
    if spec.num_classes != classes:
        origin = facts.origins["labels"]
        raise CheckpointError(
            f"{origin}: {spec.num_classes} labels for the {classes} classes of {path}"
        )
    return Description(spec, facts.origins)


def _origin(path: Path, facts: Facts, message: str) -> str:
    """The file that a message about labels should name; otherwise the checkpoint."""
    origin = facts.origins.get("labels" if message.startswith("label ") else "")
    return origin if origin and Path(origin).is_file() else str(path)


def _check_hyperparameters(
    path: Path, facts: Facts, family: Family, inferred: Hyperparameters
) -> None:
    """Check hyper-parameters against the shapes of the weights, which bound the network's size."""
    known = signature(family.build).parameters
    for name, value in facts.hyperparameters.items():
        origin = facts.origins[name]
        if name not in known:
            raise CheckpointError(
                f"{path}: unknown hyper-parameter {show(name)}, from {origin}; "
                f"known are {', '.join(known)}"
            )
        if type(value) not in {int, float, bool}:
            raise CheckpointError(f"{path}: {name} is {show(value)}, from {origin}; not a number")
        if value != inferred.get(name, value):
            raise CheckpointError(
                f"{path}: {name} is {show(value)}, from {origin}; "
                f"the weights have {show(inferred[name])}"
            )
    facts.hyperparameters |= inferred


def _build_preprocess(path: Path, facts: Facts) -> PreprocessSpec:
    known = [field.name for field in fields(PreprocessSpec)]
    for name in facts.preprocess.keys() - set(known):
        raise CheckpointError(
            f"{path}: unknown preprocessing field {show(name)}, from "
            f"{facts.origins[f'preprocess.{name}']}; known are {', '.join(known)}"
        )
    if "image_size" not in facts.preprocess:
        raise CheckpointError(f"{path}: its metadata does not give the preprocessing's image_size")
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in facts.preprocess.items()
    }
    try:
        return PreprocessSpec(**values)
    except (TypeError, ValueError) as error:
        origin = facts.origins.get(f"preprocess.{str(error).partition(' ')[0]}", "several places")
        raise CheckpointError(f"{path}: bad preprocessing, from {origin}: {error}") from error


def _check_image_size(path: Path, spec: ModelSpec, origin: str) -> None:
    """Learned positions fit one grid; other positions fit any grid of whole patches."""
    size = spec.preprocess.image_size
    patch = spec.hyperparameters["patch_size"]
    trained = spec.hyperparameters.get("image_size", size)
    if size != trained:
        raise CheckpointError(
            f"{path}: image_size is {size}, from {origin}; the positions of this "
            f"checkpoint are learned for {trained}, so it cannot be changed"
        )
    if size % patch:
        below = int(size // patch * patch)
        raise CheckpointError(
            f"{path}: image_size is {size}, from {origin}; it must be a multiple of the "
            f"patch size {patch}, such as {below or patch} or {below + patch}"
        )
