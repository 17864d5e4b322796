"""The checkpoint that a training run starts from, and what the new network takes from it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from model.checkpoint import Checkpoint, read_checkpoint
from model.errors import ModelError
from model.families.xcit import XCiT
from training.recipe import ARCHITECTURE

FAMILY = "vit_pytorch"  # the only family that can be trained
HEAD = ("mlp_head.1.weight", "mlp_head.1.bias")


def read_start(path: str, given: Mapping[str, Any]) -> Checkpoint:
    """A checkpoint whose network can be trained further.

    Args:
        given: the choices of the recipe that the caller has made.

    Raises:
        ModelError: it cannot be read, is of another family, or ``given`` contradicts its
            architecture.
    """
    start = read_checkpoint(path)
    if start.spec.family != FAMILY:
        raise ModelError(
            f"{path}: its family is {start.spec.family}; only the family {FAMILY} can be trained"
        )
    for name, value in architecture_of(start).items():
        if given.get(name, value) != value:
            raise ModelError(
                f"{path}: its {name} is {value}, not {given[name]}; omit "
                f"--{name.replace('_', '-')}, or start from another checkpoint"
            )
    return start


def architecture_of(start: Checkpoint) -> dict[str, Any]:
    """The choices that the weights determine: the architecture except for its dropouts."""
    known = start.spec.hyperparameters
    return {
        name: known[name] for name in ARCHITECTURE if name in known and not name.endswith("dropout")
    }


def take_over(network: XCiT, labels: Sequence[str], start: Checkpoint) -> None:
    """Copy the weights of ``start``, and those of the head for labels that it has too."""
    state = dict(start.state)
    known = {label: row for row, label in enumerate(start.spec.labels)}
    shared = [(row, known[label]) for row, label in enumerate(labels) if label in known]
    fresh = network.state_dict()
    with torch.no_grad():
        for key in HEAD:
            head = fresh[key].clone()
            for row, old in shared:
                head[row] = start.state[key][old]
            state[key] = head
    network.load_state_dict(state)
