"""Choosing the weight file in a directory: a download, a training run or an archive."""

import os
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from model.errors import CheckpointError
from model.weights.container import looks_like_weights

WEIGHTS = re.compile(r".+\.(safetensors|pth|pt|bin|ckpt)(\.tar)?", re.IGNORECASE)
# state that trainers save next to the weights, to resume from
TRAINING_STATE = re.compile(
    r"(training_args|optimizer|optim|scheduler|scaler|rng_state|random_states|sampler)([_.-].*)?|"
    r".*_optim_states\.pt"
)
SHARD = re.compile(r".+-\d{5}-of-\d{5}\.(safetensors|bin)")
# preference among several files, best first: names that hubs use, the best of a run, a file that
# may contain its description, the last of a run
PREFERRED = (
    re.compile(r"model\.safetensors"),
    re.compile(r"pytorch_model\.bin"),
    re.compile(r"(.+[_-])?best([_-].+)?\.[a-z.]+"),
    re.compile(r".+\.safetensors"),
    re.compile(r"(.+[_-])?(last|latest|final)([_-].+)?\.[a-z.]+"),
)
OTHER_FORMATS = {
    "saved_model.pb": "a TensorFlow SavedModel; expected PyTorch weights",
    ".metadata": (
        "a sharded checkpoint of torch.distributed; merge it: "
        "python -m torch.distributed.checkpoint.format_utils dcp_to_torch DIRECTORY FILE"
    ),
}
SHARDED = (
    "weights in several files (shards) are not supported; save them as one file: "
    "model.save_pretrained(directory, max_shard_size='100GB')"
)
MAX_DEPTH = 4
MAX_ENTRIES = 10_000
SHOWN = 5


def choose_weights(directory: Path) -> Path:
    """The weight file in ``directory``, or in the only directory below it that has any.

    Hidden files and optimiser states do not count.

    Raises:
        CheckpointError: there is none, or several are equally good.
        OSError: the directory cannot be read.
    """
    if files := _weight_files(directory):
        return _choose(directory, files)
    _refuse_other_formats(directory)
    unreadable: list[OSError] = []
    below = _below(directory, unreadable)
    places = {place: files for place in below if (files := _weight_files(place))}
    if len(places) == 1:
        return _choose(directory, next(iter(places.values())))
    if places:
        raise _several(directory, [file for files in places.values() for file in files])
    files = [file for file in _visible_files(directory) if not _is_other_state(file)]
    if len(files := [*filter(looks_like_weights, files)]) == 1:
        return files[0]
    if unreadable:
        raise unreadable[0]
    raise CheckpointError(
        f"{directory}: the directory has no weight file; expected one such as model.safetensors, "
        "weights.pth or model_best.pth.tar"
    )


def _weight_files(directory: Path) -> list[Path]:
    return [
        path
        for path in _visible_files(directory)
        if WEIGHTS.fullmatch(path.name) and not _is_other_state(path)
    ]


def _is_other_state(path: Path) -> bool:
    return bool(TRAINING_STATE.fullmatch(path.name) or SHARD.fullmatch(path.name))


def _visible_files(directory: Path) -> list[Path]:
    with os.scandir(directory) as entries:
        names = [entry.name for entry in islice(entries, MAX_ENTRIES)]
    paths = (directory / n for n in sorted(names) if not n.startswith(".") and n.isprintable())
    return [path for path in paths if path.is_file()]


def _below(directory: Path, unreadable: list[OSError]) -> Iterator[Path]:
    """Directories below, except hidden ones; errors are collected in ``unreadable``."""
    walk = os.walk(directory, onerror=unreadable.append)
    for place, names, _ in islice(walk, MAX_ENTRIES):
        depth = len(Path(place).relative_to(directory).parts)
        names[:] = sorted(n for n in names if not n.startswith(".")) if depth < MAX_DEPTH else []
        if depth and place.isprintable():
            yield Path(place)


def _choose(directory: Path, files: Sequence[Path]) -> Path:
    if len(files) == 1:
        return files[0]
    for rule in PREFERRED:
        match [file for file in files if rule.fullmatch(file.name)]:
            case [file]:
                return file
            case [_, _, *_] as rivals:
                raise _several(directory, rivals)
    raise _several(directory, files)


def _several(directory: Path, files: Sequence[Path]) -> CheckpointError:
    names = ", ".join(str(file.relative_to(directory)) for file in files[:SHOWN])
    more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
    return CheckpointError(
        f"{directory}: it has several weight files: {names}{more}; name the one to use"
    )


def _refuse_other_formats(directory: Path) -> None:
    for name, kind in OTHER_FORMATS.items():
        if (directory / name).is_file():
            raise CheckpointError(f"{directory}: {kind}")
    if any(SHARD.fullmatch(file.name) for file in _visible_files(directory)):
        raise CheckpointError(f"{directory}: {SHARDED}")
