"""Training runs for tests, on a recipe of a few seconds."""

import csv
from pathlib import Path

import torch

from model.checkpoint import read_checkpoint
from model.evaluation.dataset import load_dataset
from model.spec import PreprocessSpec
from training.command import main
from training.recipe import Recipe
from training.trainer import Trainer

RECIPE = Recipe(
    name="tiny",
    image_size=8,
    patch_size=4,
    dim=16,
    depth=1,
    heads=1,
    dim_head=8,
    mlp_dim=16,
    epochs=3,
    decay_epochs=1,
    batch_size=16,
)


FLAGS = "--image-size 8 --patch-size 4 --dim 16 --depth 1 --heads 1 --dim-head 8 --mlp-dim 16"


def train(folder: Path, out: Path, recipe: Recipe) -> Trainer:
    spec = PreprocessSpec(recipe.image_size)
    training, test = (load_dataset(folder, split, spec, quiet=True) for split in ("train", "test"))
    out.mkdir(exist_ok=True)
    trainer = Trainer(recipe, out, training, test)
    trainer.run()
    return trainer


def weights(out: Path) -> dict[str, torch.Tensor]:
    return dict(read_checkpoint(out / "tiny.safetensors").state)


def read_metrics(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "metrics.csv").read_text().splitlines()))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def run(data: Path, out: Path, *flags: object) -> None:
    main(["run", str(data), "--out", str(out), *map(str, flags)])
