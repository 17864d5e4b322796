"""What a checkpoint is, put together from all that is known of it, each value with its origin.

A file of the project's own form says everything itself. For a raw state dict each value comes from
the last of these that knows it: a default, the weights, the name of a published variant, the name
of the file, timm's ``config.json`` beside it, a sidecar file. The caller's choice wins over all.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from model.errors import CheckpointError
from model.families import FAMILIES, Family, StateDict
from model.imagenet import imagenet_labels
from model.sidecar import find_labels, find_preprocess, read_labels, read_preprocess
from model.spec import ModelSpec, PreprocessSpec
from model.timm_config import read_timm_config
from model.variants import image_size_in

FORMAT_VERSION = 1
DEFAULT_IMAGE_SIZE = 224
NAMELESS = {"model", "pytorch_model"}
NOTHING: Mapping[str, Any] = MappingProxyType({})

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the caller chooses, whatever the file says.

    Attributes:
        labels: file of class names.
        image_size: pixels a side; for networks whose positions fit any grid.
        preprocess: fields of `PreprocessSpec`.
        hyperparameters: keyword arguments of the family's network that leave no trace in weights.
    """

    labels: Path | None = None
    image_size: int | None = None
    preprocess: Mapping[str, Any] | None = None
    hyperparameters: Mapping[str, Any] | None = None

    @property
    def all_preprocess(self) -> Mapping[str, Any]:
        size = {} if self.image_size is None else {"image_size": self.image_size}
        return {**(self.preprocess or {}), **size}


class Facts:
    """What is known of a model, and where each value came from. What is learned later wins."""

    def __init__(self) -> None:
        self.model: dict[str, Any] = {}
        self.hyperparameters: dict[str, Any] = {}
        self.preprocess: dict[str, Any] = {}
        self.origins: dict[str, str] = {}

    def learn(
        self,
        origin: str,
        *,
        hyperparameters: Mapping[str, Any] = NOTHING,
        preprocess: Mapping[str, Any] = NOTHING,
        **model: Any,
    ) -> None:
        """Take over values that ``origin`` tells; ``model`` are other fields of `ModelSpec`."""
        self.model |= model
        self.hyperparameters |= hyperparameters
        self.preprocess |= preprocess
        names = (*model, *hyperparameters, *(f"preprocess.{name}" for name in preprocess))
        self.origins |= dict.fromkeys(names, origin)


@dataclass(frozen=True, slots=True)
class Description:
    """A spec, and the origin of each value, by name: ``labels``, ``depth``, ``preprocess.mean``."""

    spec: ModelSpec
    origins: Mapping[str, str]


def describe_raw(
    path: Path, family: Family, state: StateDict, variant: str | None, overrides: Overrides
) -> Description:
    """What a bare state dict is.

    Args:
        variant: the name of the published one that was asked for, if one was.

    Raises:
        CheckpointError: what is known does not fit together; the file is named.
    """
    facts = Facts()
    preprocess = asdict(PreprocessSpec(image_size=DEFAULT_IMAGE_SIZE))
    facts.learn("default", version="1", preprocess=preprocess)
    _learn_from_weights(facts, path, family, state)
    _learn_from_names(facts, path, variant)
    if family.name == "published":
        _learn_from_timm(facts, path)
    _learn_from_sidecars(facts, path)
    description = _conclude(path, facts, overrides)

    told = {description.origins[f"preprocess.{field.name}"] for field in fields(PreprocessSpec)}
    logger.info("%s does not describe itself: preprocessing from %s", path, ", ".join(sorted(told)))
    return description


def describe_itself(path: Path, metadata: str, overrides: Overrides) -> Description:
    """What a file of the project's own form says that it is.

    Raises:
        CheckpointError: it says so in a way that this release does not understand.
    """
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
        for name in ("labels", "synsets"):
            document[name] = tuple(document.get(name, ()))
        facts = Facts()
        facts.learn("metadata", **document)
        return _conclude(path, facts, overrides)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: its metadata is no description of a model: {error!r}"
        ) from error


def self_description(spec: ModelSpec) -> str:
    """The metadata that `describe_itself` understands."""
    document = {"format_version": FORMAT_VERSION, **asdict(spec)}
    return json.dumps(document, ensure_ascii=False)


def _learn_from_weights(facts: Facts, path: Path, family: Family, state: StateDict) -> None:
    if family.head not in state:
        raise CheckpointError(
            f"{path}: a backbone without a classifier: key {family.head!r} is missing; "
            "expected a checkpoint with its classification head"
        )
    try:
        inferred = family.infer(state)
    except KeyError as error:
        raise CheckpointError(
            f"{path}: key {error} is missing; every checkpoint of family {family.name} has it"
        ) from error
    except (ValueError, LookupError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path}: odd shapes for family {family.name}: {error}") from error

    facts.learn("weights", family=family.name, hyperparameters=inferred)
    untold = {name: inferred[name] for name in family.untold}
    facts.learn("dim, as published", hyperparameters=untold)
    if "image_size" in inferred:
        facts.learn("weights", preprocess={"image_size": inferred["image_size"]})
    classes = int(inferred["num_classes"])
    facts.learn("default", labels=tuple(f"class_{i}" for i in range(classes)))
    if family.name == "published" and classes == len(imagenet_labels()):
        synsets, labels = zip(*imagenet_labels(), strict=True)
        facts.learn("ImageNet-1k, by their number", labels=labels, synsets=synsets)


def _learn_from_names(facts: Facts, path: Path, variant: str | None) -> None:
    facts.learn("file name", name=path.stem)
    if variant:
        facts.learn("variant", name=variant)
    for origin, name in (("variant", variant), ("file name", path.stem)):
        if name and "image_size" not in facts.hyperparameters and (size := image_size_in(name)):
            facts.learn(origin, preprocess={"image_size": size})


def _learn_from_timm(facts: Facts, path: Path) -> None:
    if config := read_timm_config(path):
        facts.learn(
            str(config.path),
            hyperparameters=config.hyperparameters,
            preprocess=config.preprocess,
            **config.labels,
        )
        if facts.model["name"] in NAMELESS:
            facts.learn(str(config.path), name=config.name)


def _learn_from_sidecars(facts: Facts, path: Path) -> None:
    if found := find_preprocess(path):
        facts.learn(str(found), preprocess=read_preprocess(found))
    if found := find_labels(path):
        facts.learn(str(found), labels=read_labels(found), synsets=())


def _conclude(path: Path, facts: Facts, overrides: Overrides) -> Description:
    """The spec of what was learned and of the caller's choices."""
    facts.learn(
        "settings",
        hyperparameters=overrides.hyperparameters or NOTHING,
        preprocess=overrides.all_preprocess,
    )
    if overrides.labels:
        facts.learn(str(overrides.labels), labels=read_labels(overrides.labels), synsets=())
    spec = ModelSpec(
        **facts.model,
        hyperparameters=facts.hyperparameters,
        preprocess=_build_preprocess(path, facts),
    )
    _check_image_size(path, spec, facts.origins["preprocess.image_size"])
    classes = spec.hyperparameters["num_classes"]
    if spec.num_classes != classes:
        origin = facts.origins["labels"]
        raise CheckpointError(
            f"{origin}: {spec.num_classes} labels for the {classes} classes of {path}"
        )
    return Description(spec, facts.origins)


def _build_preprocess(path: Path, facts: Facts) -> PreprocessSpec:
    known = {field.name for field in fields(PreprocessSpec)}
    for name in facts.preprocess.keys() - known:
        raise CheckpointError(
            f"{path}: unknown preprocessing field {name!r}, from "
            f"{facts.origins[f'preprocess.{name}']}; known are {sorted(known)}"
        )
    try:
        triples = {name: tuple(facts.preprocess[name]) for name in ("mean", "std")}
        return PreprocessSpec(**{**facts.preprocess, **triples})
    except (TypeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: bad preprocessing: {error}") from error


def _check_image_size(path: Path, spec: ModelSpec, origin: str) -> None:
    """Learned positions fit one grid; others fit any of whole patches."""
    size = spec.preprocess.image_size
    patch = spec.hyperparameters["patch_size"]
    trained = spec.hyperparameters.get("image_size", size)
    if size != trained:
        raise CheckpointError(
            f"{path}: image_size is {size}, from {origin}; the positions of this "
            f"checkpoint are learned for {trained}, which cannot be changed"
        )
    if size % patch:
        below = int(size // patch * patch)
        raise CheckpointError(
            f"{path}: image_size is {size}, from {origin}; it must be a multiple of the "
            f"patch size {patch}, such as {below or patch} or {below + patch}"
        )
