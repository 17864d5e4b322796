"""Finding the network among the tensors of a training checkpoint.

Training scripts wrap what they save in dictionaries, key prefixes and module wrappers. Here these
are all parts of a path, and a network is found by the keys that only its family has.
"""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from model.errors import CheckpointError, one_line, show
from model.families.registry import FAMILIES, Family, StateDict
from model.weights.container import Contents
from model.weights.lookalikes import SAVE
from model.weights.stored import Leaf, NotPlain

# No key of a network has such a part: DDP, torch.compile, FSDP and checkpointing add them.
WRAPPER = re.compile(r"module|_.*")
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # splits state_dict_ema, modelEMA, EmaModel
AVERAGED = frozenset({"ema", "swa", "avg", "average", "averaged", "teacher", "polyak", "shadow"})
NOT_AVERAGED = frozenset({"current", "online", "student", "raw"})
BEST = frozenset({"best"})
LAST = frozenset({"last", "latest"})
# values that optimisers store per weight, under the weight's name
OPTIMISER = re.compile(
    r"(.+_)?optimi[sz]ers?(_.+)?|optim(_.+)?|(.+_)?exp_avg.*|momentum(_buffer)?|grads?|gradients?",
    re.IGNORECASE,
)
ADAPTER = re.compile(r"(^|\.)lora_")
COUNTER = "num_batches_tracked"
LAYER = re.compile(r"[^\d]*\.\d+")
DIVIDED = NotPlain("split into several tensors")
SHOWN = 5  # names in a message
MAX_NETWORKS = 16

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A network in a file.

    Attributes:
        place: prefix of its keys, such as ``state_dict.module``.
        tensors: by the network's own keys.
        others: places of the networks that were not chosen.
    """

    family: Family
    place: str
    tensors: Mapping[str, Leaf]
    others: tuple[str, ...] = ()

    @property
    def averaged(self) -> bool:
        """Whether the place indicates that the weights are an average over training."""
        return _compare(self.place, AVERAGED, NOT_AVERAGED) > 0

    @property
    def rank(self) -> tuple[int, int]:
        """Preference among several networks: averages first, then the best one."""
        return (
            _compare(self.place, AVERAGED, NOT_AVERAGED),
            _compare(self.place, BEST, LAST),
        )

    @property
    def shapes(self) -> Mapping[str, torch.Size | None]:
        """Shapes of its permanent tensors; ``None`` for tensors that are not plain."""
        leaves = ((key, self.tensors[key]) for key in _lasting(self.tensors))
        return {key: leaf.shape if isinstance(leaf, Tensor) else None for key, leaf in leaves}

    def __str__(self) -> str:
        return one_line(self.place) or "the top level"


def _compare(place: str, better: frozenset[str], worse: frozenset[str]) -> int:
    """1 or -1 if the innermost part with one of these words is better or worse, else 0."""
    for part in reversed(place.split(".")):
        words = {word.lower() for word in WORD.findall(part)}
        if words & better:
            return 1
        if words & worse:
            return -1
    return 0


def find_network(path: Path, contents: Contents) -> Found:
    """The network to serve.

    Raises:
        CheckpointError: there is none, or there are several and none is preferable.
    """
    candidates = _drop_incomplete([*_candidates(path, contents.tensors)])
    if not candidates:
        raise CheckpointError(f"{path}: {_absence(contents)}")
    best = max(candidate.rank for candidate in candidates)
    chosen, *rivals = (candidate for candidate in candidates if candidate.rank == best)
    if not all(_same(chosen, rival) for rival in rivals):
        raise _several(path, [chosen, *rivals])
    if not all(candidate.shapes == chosen.shapes for candidate in candidates):
        raise _several(path, candidates)  # none is an average or a later state of the other
    others = tuple(str(other) for other in candidates if other is not chosen)
    if chosen.place:
        logger.info(
            "%s: weights from %s%s%s",
            path,
            chosen,
            ", an average (EMA)" if chosen.averaged else "",
            f"; not used: {_list(others)}" if others else "",
        )
    return Found(chosen.family, chosen.place, chosen.tensors, others)


def as_state(path: Path, found: Found) -> StateDict:
    """The tensors of a network, which must all be plain.

    Batch counters of another kind are dropped: inference never reads them.

    Raises:
        CheckpointError: a tensor is of another kind; the message names its key.
    """
    if any(map(ADAPTER.search, found.tensors)):
        raise CheckpointError(
            f"{path}: its LoRA adapters are not merged; merge them: model.merge_and_unload()"
        )
    state: dict[str, Tensor] = {}
    for key, leaf in found.tensors.items():
        if isinstance(leaf, NotPlain) and key.endswith(COUNTER):
            continue
        if isinstance(leaf, NotPlain):
            raise CheckpointError(f"{path}: key {show(key)} is {leaf.what}; {leaf.remedy}")
        state[key] = leaf
    return state


def _several(path: Path, networks: Sequence[Found]) -> CheckpointError:
    names = _list([str(network) for network in networks])
    return CheckpointError(f"{path}: it has several networks: {names}; {SAVE}")


def _candidates(path: Path, tensors: Mapping[str, Leaf]) -> Iterator[Found]:
    places = [
        (place, family)
        for key in tensors
        for family in FAMILIES.values()
        if (place := _place(key, family.signature)) is not None
        and not any(map(OPTIMISER.fullmatch, place.split(".")))
    ]
    if len(places) > MAX_NETWORKS:
        raise CheckpointError(f"{path}: it has {len(places)} networks; {SAVE}")
    inner = {place for place, _ in places}
    for place, family in places:
        members: dict[str, Leaf] = {}
        for key, leaf in tensors.items():
            if key.startswith(place) and not _belongs_deeper(key, place, inner):
                plain = _without_wrappers(key[len(place) :])
                members[plain] = DIVIDED if plain in members else leaf
        yield Found(family, place.rstrip("."), members)


def _place(key: str, signature: str) -> str | None:
    """What precedes ``signature``, with or without wrappers in it, at the end of a key."""
    parts, wanted = key.split("."), signature.split(".")
    while parts and wanted:
        part = parts.pop()
        if part == wanted[-1]:
            wanted.pop()
        elif not WRAPPER.fullmatch(part):
            return None
    return None if wanted else "".join(f"{part}." for part in parts)


def _belongs_deeper(key: str, place: str, places: set[str]) -> bool:
    return any(
        len(other) > len(place) and other.startswith(place) and key.startswith(other)
        for other in places
    )


def _without_wrappers(key: str) -> str:
    *modules, name = key.split(".")
    return ".".join((*(part for part in modules if not WRAPPER.fullmatch(part)), name))


def _drop_incomplete(candidates: list[Found]) -> list[Found]:
    """Drop copies that lack some tensors of the same layers, such as an optimiser's averages."""
    keys = [frozenset(_lasting(candidate.tensors)) for candidate in candidates]
    return [
        candidate
        for candidate, mine in zip(candidates, keys, strict=True)
        if not any(mine < other and _layers(mine) == _layers(other) for other in keys)
    ]


def _layers(keys: Iterable[str]) -> set[str]:
    return {match[0] for key in keys if (match := LAYER.match(key))}


def _lasting(tensors: Mapping[str, Leaf]) -> Iterator[str]:
    return (key for key in tensors if not key.endswith(COUNTER))


def _same(one: Found, other: Found) -> bool:
    """Whether two networks have the same numbers."""
    return one.tensors.keys() == other.tensors.keys() and all(
        isinstance(leaf, Tensor)
        and isinstance(twin := other.tensors[key], Tensor)
        and torch.equal(leaf, twin)
        for key, leaf in one.tensors.items()
    )


def _absence(contents: Contents) -> str:
    """Why no network was found."""
    if "" in contents.tensors:
        return f"a single tensor; expected a dictionary of tensors by name: {SAVE}"
    if not contents.tensors:
        objects = f", only Python objects ({_list(contents.objects)})" if contents.objects else ""
        return f"no tensors{objects}; expected a dictionary of tensors by name: {SAVE}"
    if any(map(ADAPTER.search, contents.tensors)):
        return (
            "only LoRA adapters; load them into the network and merge them: "
            "model.merge_and_unload()"
        )
    signatures = " or ".join(f"'{f.signature}' ({f.name})" for f in FAMILIES.values())
    first = show(next(iter(contents.tensors)))
    return f"the architecture is unknown: expected a key {signatures}; its first key is {first}"


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
