"""The reference in the metadata of a checkpoint; see `model.drift`."""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from model.drift import OtherBuckets, Reference, read_reference
from model.errors import CheckpointError, show
from model.scores import show_temperatures
from model.spec import ModelSpec

AGAIN = "it is not used; make it again with xcit-serve evaluate --reference"

logger = logging.getLogger(__name__)


def usable_reference(
    path: Path, content: Any, document: Mapping[str, Any], spec: ModelSpec
) -> Reference | None:
    """The reference, if there is one that predictions by ``spec`` can be compared with.

    Otherwise a warning says why it cannot.

    Args:
        content: of the metadata; ``None`` without a reference.
        document: the description of the model when the reference was made.

    Raises:
        CheckpointError: the reference is damaged.
    """
    if content is None:
        return None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: its reference is {show(content)}; expected a JSON object")
    try:
        reference = read_reference(content, spec.num_classes)
    except OtherBuckets as error:
        logger.warning("%s: its reference %s: %s", path, error, AGAIN)
        return None
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if reason := _mismatch(reference, document, spec):
        logger.warning("%s: its reference was made with %s: %s", path, reason, AGAIN)
        return None
    return reference


def _mismatch(reference: Reference, document: Mapping[str, Any], spec: ModelSpec) -> str | None:
    """The difference between the model that the reference was made with and ``spec``."""
    if reference.temperatures != spec.temperatures:
        made, used = map(show_temperatures, (reference.temperatures, spec.temperatures))
        return f"temperature {made}, and the scores now use {used}"
    now = {**asdict(spec.preprocess), **spec.hyperparameters}
    for name, value in {**document["preprocess"], **document["hyperparameters"]}.items():
        current = [*now[name]] if isinstance(now[name], tuple) else now[name]
        if current != value:
            return f"{name} {show(value)}, and the settings say {show(current)}"
    return None
