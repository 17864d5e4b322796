"""What is known of a model while it is described, and where each value came from."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

NOTHING: Mapping[str, Any] = MappingProxyType({})


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
