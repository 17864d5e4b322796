"""Facts about a raw state dict: from its weights, its names and the files next to it."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from model.errors import CheckpointError
from model.families.registry import Family, Hyperparameters, StateDict
from model.families.variants import image_size_in
from model.metadata.sidecar import find_labels, find_preprocess, read_labels, read_preprocess
from model.metadata.timm_args import read_args_file, read_saved_args
from model.metadata.timm_config import TimmConfig, imagenet_labels, read_timm_config

NOTHING: Mapping[str, Any] = MappingProxyType({})
# file names that do not describe the model
NAMELESS = re.compile(r"(pytorch_)?model([_-]best)?|(model[_-])?(best|last|latest)|checkpoint-\d+")
SUFFIXES = re.compile(r"(\.(safetensors|pth|pt|tar|bin|ckpt))+$")

logger = logging.getLogger(__name__)


class Facts:
    """Values by name, each with its origin. Later values replace earlier ones."""

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
        """Add values from ``origin``; ``model`` are other fields of `ModelSpec`."""
        self.model |= model
        self.hyperparameters |= hyperparameters
        self.preprocess |= preprocess
        names = (*model, *hyperparameters, *(f"preprocess.{name}" for name in preprocess))
        self.origins |= dict.fromkeys(names, origin)


def learn_from_weights(
    facts: Facts, path: Path, family: Family, state: StateDict, *, headless: bool = False
) -> Hyperparameters:
    """Learn from the shapes of the weights; nothing learned later may contradict them.

    Args:
        headless: whether a backbone without its classifier is accepted.
    """
    if f"{family.head}.weight" not in state and not headless:
        raise CheckpointError(
            f"{path}: a backbone without its classifier: key '{family.head}.weight' is missing; "
            "expected a checkpoint with its classification head "
            "(xcit-serve score --embeddings needs none)"
        )
    try:
        inferred = family.infer(state)
    except KeyError as error:
        raise CheckpointError(
            f"{path}: key '{error.args[0]}' is missing; every checkpoint of family {family.name} "
            "has it"
        ) from error
    except (ValueError, LookupError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{path}: unexpected shapes for family {family.name}: {error}"
        ) from error

    facts.learn("weights", family=family.name, hyperparameters=inferred)
    unknown = {name: inferred.pop(name) for name in family.not_in_weights}
    facts.learn("dim, as published", hyperparameters=unknown)
    if "image_size" in inferred:
        facts.learn("weights", preprocess={"image_size": inferred["image_size"]})
    classes = int(inferred["num_classes"])
    facts.learn("default", labels=tuple(f"class_{i}" for i in range(classes)))
    if family.name == "published" and classes == len(imagenet_labels()):
        synsets, labels = zip(*imagenet_labels(), strict=True)
        facts.learn("ImageNet-1k, by their number", labels=labels, synsets=synsets)
    return inferred


def learn_from_names(facts: Facts, path: Path, variant: str | None) -> None:
    """Learn from the names of the file and of the published variant."""
    name = SUFFIXES.sub("", path.name) or path.name
    facts.learn("file name", name=name)
    if variant:
        facts.learn("variant", name=variant)
    for origin, text in (("variant", variant), ("file name", name)):
        if text:
            _learn_size_in(facts, origin, text)


def _learn_size_in(facts: Facts, origin: str, name: str) -> None:
    if "image_size" not in facts.hyperparameters and (size := image_size_in(name)):
        facts.learn(origin, preprocess={"image_size": size})


def learn_from_timm(facts: Facts, path: Path, root: Mapping[str, Any]) -> None:
    """Learn from timm's files: ``args.yaml``, the arguments in the checkpoint, ``config.json``.

    Args:
        root: other members of the checkpoint.
    """
    read = (read_args_file(path), read_saved_args(path, root), read_timm_config(path))
    configs = [config for config in read if config and _is_of_this(facts, path, config)]
    for config in configs:  # a size in any of them overrides a size in a name
        _learn_size_in(facts, config.origin, config.name)
    for config in configs:
        facts.learn(
            config.origin,
            hyperparameters=config.hyperparameters,
            preprocess=config.preprocess,
            **(config.labels if facts.hyperparameters["num_classes"] else {}),
        )
        if NAMELESS.fullmatch(facts.model["name"]):
            facts.learn(config.origin, name=config.name)


def _is_of_this(facts: Facts, path: Path, config: TimmConfig) -> bool:
    """Whether ``config`` has as many classes as the weights, if these have a classifier."""
    classes = facts.hyperparameters["num_classes"]
    if config.classes in {None, classes} or not classes:
        return True
    logger.warning(
        "%s: not used: it is for a model with %d classes, but %s has %d",
        *(config.origin, config.classes, path, classes),
    )
    return False


def learn_from_sidecars(facts: Facts, path: Path) -> None:
    """Learn from the user's files next to the checkpoint."""
    if found := find_preprocess(path):
        facts.learn(str(found), preprocess=read_preprocess(found, path))
    if found := find_labels(path):
        facts.learn(str(found), labels=read_labels(found, path), synsets=())
