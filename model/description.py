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
from typing import Any

from model.errors import CheckpointError
from model.families import FAMILIES, Family, StateDict
from model.imagenet import imagenet_labels
from model.sidecar import find_labels, find_preprocess, read_labels, read_preprocess
from model.spec import ModelSpec, PreprocessSpec
from model.timm_config import read_timm_config
from model.variants import image_size_in

FORMAT_VERSION = 1
NAMELESS = {"model", "pytorch_model"}

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
    """Values by name, and where each came from. What is learned later wins."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.origins: dict[str, str] = {}

    def learn(self, origin: str, values: Mapping[str, Any]) -> None:
        self.values |= values
        self.origins |= dict.fromkeys(values, origin)


@dataclass(frozen=True, slots=True)
class Description:
    """A spec, and the origins of its values: hyper-parameters, ``preprocess.FIELD``, ``labels``."""

    spec: ModelSpec
    origins: Mapping[str, str]


def describe_raw(
    path: Path, family: Family, state: StateDict, name: str | None, overrides: Overrides
) -> Description:
    """What a bare state dict is.

    Args:
        name: of the published variant that was asked for, if one was.

    Raises:
        CheckpointError: what is known does not fit together; the file is named.
    """
    config = read_timm_config(path) if family.name == "published" else None

    hyperparameters = Facts()
    inferred = _infer(path, family, state)
    hyperparameters.learn("weights", inferred)
    hyperparameters.learn("dim, as published", {k: inferred[k] for k in family.untold})

    preprocess = Facts()
    preprocess.learn("default", asdict(PreprocessSpec(image_size=224)))
    if "image_size" in inferred:
        preprocess.learn("weights", {"image_size": inferred["image_size"]})
    else:
        for origin, text in ((f"variant {name}", name), (f"name of {path.name}", path.stem)):
            if text and (size := image_size_in(text)):
                preprocess.learn(origin, {"image_size": size})

    classes = int(inferred["num_classes"])
    labels = Facts()
    labels.learn("default", {"labels": tuple(f"class_{i}" for i in range(classes)), "synsets": ()})
    if family.name == "published" and classes == len(imagenet_labels()):
        synsets, names = zip(*imagenet_labels(), strict=True)
        labels.learn("ImageNet-1k, by their number", {"labels": names, "synsets": synsets})

    title = Facts()
    title.learn("file name", {"name": path.stem})
    if config:
        hyperparameters.learn(str(config.path), config.hyperparameters)
        preprocess.learn(str(config.path), config.preprocess)
        labels.learn(str(config.path), config.labels)
        if path.stem in NAMELESS and config.name:
            title.learn(str(config.path), {"name": config.name})
    if name:
        title.learn("variant", {"name": name})
    if found := find_preprocess(path):
        preprocess.learn(str(found), read_preprocess(found))
    if found := find_labels(path):
        labels.learn(str(found), {"labels": read_labels(found), "synsets": ()})

    known = {"version": "1", "family": family.name, "provenance": {}}
    description = _conclude(
        path, {**known, **title.values}, hyperparameters, preprocess, labels, overrides
    )
    told = {description.origins[f"preprocess.{field.name}"] for field in fields(PreprocessSpec)}
    logger.info("%s does not describe itself: preprocessing from %s", path, ", ".join(sorted(told)))
    return Description(description.spec, {**title.origins, **description.origins})


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
        hyperparameters, preprocess, labels = Facts(), Facts(), Facts()
        hyperparameters.learn("metadata", document.pop("hyperparameters"))
        preprocess.learn("metadata", document.pop("preprocess"))
        told = {"labels": tuple(document.pop("labels"))}
        labels.learn("metadata", {**told, "synsets": tuple(document.pop("synsets", ()))})
        return _conclude(path, document, hyperparameters, preprocess, labels, overrides)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: its metadata is no description of a model: {error!r}"
        ) from error


def self_description(spec: ModelSpec) -> str:
    """The metadata that `describe_itself` understands."""
    document = {"format_version": FORMAT_VERSION, **asdict(spec)}
    return json.dumps(document, ensure_ascii=False)


def _infer(path: Path, family: Family, state: StateDict) -> Mapping[str, int | float]:
    if family.head not in state:
        raise CheckpointError(
            f"{path}: a backbone without a classifier: key {family.head!r} is missing; "
            "expected a checkpoint with its classification head"
        )
    try:
        return family.infer(state)
    except KeyError as error:
        raise CheckpointError(
            f"{path}: key {error} is missing; every checkpoint of family {family.name} has it"
        ) from error
    except (ValueError, LookupError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path}: odd shapes for family {family.name}: {error}") from error


def _conclude(
    path: Path,
    known: Mapping[str, Any],
    hyperparameters: Facts,
    preprocess: Facts,
    labels: Facts,
    overrides: Overrides,
) -> Description:
    """The spec of what was learned and of the caller's choices."""
    hyperparameters.learn("settings", overrides.hyperparameters or {})
    preprocess.learn("settings", overrides.all_preprocess)
    if overrides.labels:
        labels.learn(
            str(overrides.labels), {"labels": read_labels(overrides.labels), "synsets": ()}
        )
    spec = ModelSpec(
        **known,
        hyperparameters=hyperparameters.values,
        preprocess=_build_preprocess(path, preprocess),
        **labels.values,
    )
    _check_image_size(path, spec, preprocess.origins["image_size"])
    classes = hyperparameters.values["num_classes"]
    if spec.num_classes != classes:
        origin = labels.origins["labels"]
        raise CheckpointError(
            f"{origin}: {spec.num_classes} labels for the {classes} classes of {path}"
        )
    fields_of_preprocess = {f"preprocess.{k}": v for k, v in preprocess.origins.items()}
    return Description(spec, {**hyperparameters.origins, **fields_of_preprocess, **labels.origins})


def _build_preprocess(path: Path, facts: Facts) -> PreprocessSpec:
    known = {field.name for field in fields(PreprocessSpec)}
    for name, origin in facts.origins.items():
        if name not in known:
            raise CheckpointError(
                f"{path}: unknown preprocessing field {name!r}, from {origin}; "
                f"known are {sorted(known)}"
            )
    try:
        triples = {name: tuple(facts.values[name]) for name in ("mean", "std")}
        return PreprocessSpec(**{**facts.values, **triples})
    except (TypeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: bad preprocessing: {error}") from error


def _check_image_size(path: Path, spec: ModelSpec, origin: str) -> None:
    """Learned positions fit one grid; others fit any of whole patches."""
    size = spec.preprocess.image_size
    trained, patch = (
        spec.hyperparameters.get("image_size", size),
        spec.hyperparameters["patch_size"],
    )
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
