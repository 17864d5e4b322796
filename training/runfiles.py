"""The files of a training run: states to resume from, metrics and curves.

Each is replaced whole or not at all, so that the last complete one survives a kill at any time.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from model.errors import ModelError
from model.files import replacing
from training.recipe import Recipe

VERSION = 2  # of the saved states

UNREADABLE = (
    *(OSError, EOFError, UnpicklingError, RuntimeError),
    *(LookupError, TypeError, ValueError),
)


def find_state(out: Path, recipe: Recipe, labels: Sequence[str]) -> dict[str, Any] | None:
    """The newest saved state that ``recipe`` can resume from; ``None`` for a fresh start.

    Raises:
        ModelError: ``out`` has a run with another recipe, labels or version, or a file with the
            name of a state that is not one.
    """
    for path in (out / "last.pt", out / "steady.pt"):
        if not path.exists():
            continue
        state, saved = _read_state(path)
        if state.get("labels", [*labels]) != [*labels]:
            raise ModelError(
                f"{out}: has a run whose labels are {', '.join(state['labels'][:5])}; those of "
                f"the images are {', '.join(labels[:5])}; choose another --out"
            )
        if replace(recipe, epochs=saved.epochs, decay_epochs=saved.decay_epochs) != saved:
            different = [
                name for name, value in asdict(recipe).items() if value != getattr(saved, name)
            ]
            raise ModelError(
                f"{out}: has a run of another recipe ({', '.join(different)} differ); "
                "give the same choices, or choose another --out"
            )
        if saved == recipe or len(state["history"]) <= min(saved.decay_start, recipe.decay_start):
            return state
    return None


def _read_state(path: Path) -> tuple[dict[str, Any], Recipe]:
    """A saved state and its recipe; raises `ModelError` if the file is something else."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        choices = state["recipe"]
        if state.get("version") == VERSION:
            return state, Recipe(**choices)
    except UNREADABLE as error:
        raise ModelError(
            f"{path}: not a state from which a run can resume; choose another --out"
        ) from error
    raise ModelError(f"{path}: written by another version of xcit-serve; choose another --out")


def save_state(path: Path, state: dict[str, Any]) -> None:
    with replacing(path) as partial:
        torch.save(state, partial)


def write_metrics(path: Path, history: Sequence[dict[str, float]]) -> None:
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, history[0].keys())
        writer.writeheader()
        writer.writerows(history)


def find_plotter() -> Callable[[Path, Sequence[dict[str, float]]], None] | None:
    """A function that draws the curves of a history into a PNG; ``None`` without matplotlib."""
    try:
        from matplotlib.figure import Figure  # heavy, and part of the extra "train"
    except ImportError:
        return None

    def plot(path: Path, history: Sequence[dict[str, float]]) -> None:
        epochs = [row["epoch"] for row in history]
        figure = Figure(figsize=(8, 4), layout="constrained")
        columns = [name for name in history[0] if name not in ("epoch", "rate")]
        for axes, column in zip(figure.subplots(1, 2), columns, strict=True):
            axes.plot(
                epochs, [row[column] for row in history], marker="." if len(epochs) < 50 else ""
            )
            axes.set(xlabel="epoch", title=column.replace("_", " "))
            axes.grid(alpha=0.3)
        with replacing(path) as partial:
            figure.savefig(partial, format="png")

    return plot
