"""A training run: network, averaged weights, optimisers, and their state on disk."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from model.checkpoint import Checkpoint, write_checkpoint
from model.errors import ModelError
from model.evaluation.dataset import Dataset
from model.families.simplify import Normalise
from model.families.xcit import LayerScale, XCiT
from model.spec import ModelSpec, PreprocessSpec
from training import warn
from training.average import Average
from training.batches import Batch, Batches
from training.gpu_step import GpuStep, layers_to_compile, prepare
from training.half import HalfPrecision
from training.optimizers import build_optimizers, restore, set_rates
from training.recipe import Recipe
from training.runfiles import VERSION, find_plotter, find_state, save_state, write_metrics
from training.start import FAMILY, take_over
from training.step import Step, fast_bf16

TEST_BATCH_SIZE = 500
FAR_ENOUGH = 0.5  # minimum share of the way from the first to the latest weights
SAVE_SECONDS = 10  # minimum between two saves


class Trainer:
    """A run, from random weights or from those of ``start``."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        train: Dataset,
        test: Dataset,
        start: Checkpoint | None = None,
        *,
        plain_steps: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare a run with its files in ``out``.

        Args:
            test: images to measure each epoch on: the recipe's holdout, or the test set.
            plain_steps: do not compile or record steps on a GPU.
            clock: seconds, for the time between two saves.
        """
        self.recipe, self.out, self.test_set = recipe, out, test
        self.plain_steps, self.clock = plain_steps, clock
        self.measure = "holdout_accuracy" if recipe.holdout else "test_accuracy"
        self.rank, self.processes = rank_and_processes()
        self.device = pick_device(self.rank)
        self.spec = describe(recipe, train, start)
        self.normalise = Normalise(self.spec.preprocess).to(self.device)

        torch.manual_seed(recipe.seed)
        self.network = XCiT(**recipe.architecture, num_classes=len(train.labels))
        initialise(self.network)
        if start:
            take_over(self.network, train.labels, start)
        self.network.to(self.device)
        self.first_weights = flatten(self.network)
        self.average = Average(self.network, recipe.average)
        self.optimizers = build_optimizers(self.network, recipe)
        self.batches = Batches(train, recipe, self.device, rank=self.rank, processes=self.processes)
        self.history: list[dict[str, float]] = []

    @property
    def epoch(self) -> int:
        """Completed epochs."""
        return len(self.history)

    def run(self) -> None:
        """Train the rest of the run, and print a line for each epoch."""
        for row in self.epochs():
            if self.rank == 0:
                print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        if self.rank == 0 and self.moved() < FAR_ENOUGH:
            warn(
                f"the averaged weights, which are saved, have moved only {self.moved():.0%} of the "
                f"way from the start; --average={self.recipe.average} is too slow for "
                f"{self.steps * self.epoch} steps: lower it, or train for more epochs"
            )

    def epochs(self) -> Iterator[dict[str, float]]:
        """Train the rest of the run; save it at intervals and at the end.

        Yields:
            The figures of each epoch, a row of metrics.csv.
        """
        self._restore()
        plot = find_plotter() if self.rank == 0 else None
        if self.rank == 0 and not plot:
            warn("matplotlib is not installed, so curves.png is not drawn")
        step = self._build_step()
        saved = float("-inf")
        while self.epoch < self.recipe.epochs:
            self.history.append(self._epoch(step))
            must_save = self.epoch in (self.recipe.decay_start, self.recipe.epochs)
            if self.rank == 0 and (must_save or self.clock() - saved >= SAVE_SECONDS):
                self._save()
                if plot:
                    plot(self.out / "curves.png", self.history)
                saved = self.clock()
            yield self.history[-1]

    def _epoch(self, step: Callable[[Batch], None]) -> dict[str, float]:
        """Train for an epoch and measure it; returns its row of metrics.csv."""
        loss = self._train_epoch(step)
        return {
            "epoch": self.epoch + 1,
            "rate": round(self.recipe.rate(self.epoch + 1), 4),
            "train_loss": round(loss, 4),
            self.measure: round(self._accuracy(), 4),
        }

    @property
    def steps(self) -> int:
        """Steps per epoch."""
        return len(self.batches)

    def moved(self) -> float:
        """How far the average has moved from the first to the latest weights, 0 to 1."""
        way = flatten(self.network) - self.first_weights
        done = flatten(self.average.network) - self.first_weights
        return float((done @ way / (way @ way).clamp(min=1e-12)).clamp(0, 1))

    def _build_step(self) -> Callable[[Batch], None]:
        """A step in the fastest form that device and number of processes permit."""
        recipe = self.recipe
        model: nn.Module = self.network
        if self.device.type == "cpu" and fast_bf16(self.device):
            model = HalfPrecision(self.network)
        if self.processes > 1:
            model = DistributedDataParallel(model)
        model = nn.Sequential(self.normalise, model)
        self.step = Step(model, self.network, self.average, self.optimizers, recipe.label_smoothing)
        if self.device.type == "cpu" or self.processes > 1 or self.plain_steps:
            return self.step
        prepare(recipe, self.device)
        if recipe.layer_dropout:
            warn("with layer_dropout Python launches every step, which takes longer")
            return self.step
        return GpuStep(self.step, layers_to_compile(self.network))

    def _train_epoch(self, step: Callable[[Batch], None]) -> float:
        """One pass over the training images; returns the mean loss."""
        recipe, steps = self.recipe, self.steps
        torch.manual_seed(recipe.seed + 1000 * self.epoch)  # all processes drop the same layers
        self.network.train()
        self.step.total.zero_()
        batches = self.batches.epoch(self.epoch)
        title = f"epoch {self.epoch + 1}/{recipe.epochs}"
        for number, batch in enumerate(self._progress(batches, title)):
            factor = recipe.rate(self.epoch + number / steps)
            set_rates(self.optimizers, (recipe.muon_lr * factor, recipe.adamw_lr * factor))
            step(batch)
        total: float = self.step.total.item()
        if not abs(total) < float("inf"):
            raise ModelError(f"the loss became {total}; a lower learning rate may help")
        return total / steps

    def _accuracy(self) -> float:
        """Top-1 accuracy of the averaged weights; each process measures its share of the images."""
        shard = slice(self.rank, None, self.processes)
        network = nn.Sequential(self.normalise, self.average.network)
        with torch.inference_mode():
            predicted = [
                network(pixels.to(self.device)).argmax(-1)
                for pixels in torch.split(self.test_set.pixels[shard], TEST_BATCH_SIZE)
            ]
        classes = self.test_set.classes[shard].to(self.device)
        correct = (torch.cat(predicted) == classes).sum()
        if self.processes > 1:
            dist.all_reduce(correct)
        return correct.item() / len(self.test_set)

    def _progress(self, batches: Iterable[Batch], title: str) -> "tqdm[Batch]":
        return tqdm(
            *(batches, title),
            total=self.steps,
            unit="step",
            mininterval=2,
            leave=False,
            disable=True if self.rank > 0 else None,  # None: only on terminals
        )

    def _save(self) -> None:
        """Write state, checkpoint and metrics, each replaced whole or not at all."""
        state = {
            "version": VERSION,
            "recipe": asdict(self.recipe),
            "network": self.network.state_dict(),
            "average": self.average.network.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "history": self.history,
            "labels": [*self.spec.labels],
        }
        save_state(self.out / "last.pt", state)
        if self.epoch <= self.recipe.decay_start:
            save_state(self.out / "steady.pt", state)
        accuracy = f"{self.history[-1][self.measure]:.2%} top-1 after {self.epoch} epochs"
        if self.recipe.holdout:
            accuracy += f", of {len(self.test_set)} held-out training images"
        spec = replace(self.spec, provenance={**self.spec.provenance, "accuracy": accuracy})
        write_checkpoint(
            self.out / f"{self.recipe.name}.safetensors", spec, self.average.network.state_dict()
        )
        write_metrics(self.out / "metrics.csv", self.history)

    def _restore(self) -> None:
        state = find_state(self.out, self.recipe, self.spec.labels)
        if state is None:
            return
        self.network.load_state_dict(state["network"])
        self.average.network.load_state_dict(state["average"])
        restore(self.optimizers, state["optimizers"])
        self.history = state["history"]


def initialise(network: XCiT) -> None:
    """Initialise for short runs: small positions, full branches, plain linear layers."""
    with torch.no_grad():
        network.pos_embedding.mul_(0.02)
        network.cls_token.mul_(0.02)
        for module in network.modules():
            if isinstance(module, LayerScale):
                module.scale.fill_(1.0)
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)


def flatten(network: nn.Module) -> Tensor:
    """All parameters as one vector."""
    return torch.cat([weight.detach().flatten() for weight in network.parameters()])


def describe(recipe: Recipe, train: Dataset, start: Checkpoint | None) -> ModelSpec:
    """The spec of the run's checkpoint.

    Its mean is that of the training images, its std theirs over ``input_scale``. The first
    LayerNorm sees one patch at a time: at the usual scale it would amplify the noise of a flat
    patch to the strength of an edge, but at a small one its epsilon prevents that. A run that
    starts from a checkpoint keeps its preprocessing.
    """
    provenance = {"recipe": "xcit-serve train", "images": str(len(train))}
    if start:
        preprocess = start.spec.preprocess
        provenance["start"] = f"{start.spec.name}, sha256 {start.sha256}"
    else:
        channels = train.pixels.flatten(0, 2).double() / 255
        mean = tuple(round(x, 4) for x in channels.mean(0).tolist())
        scale = recipe.input_scale
        std = tuple(round(max(x, 1 / 255) / scale, 4) for x in channels.std(0).tolist())
        preprocess = PreprocessSpec(recipe.image_size, mean=mean, std=std)
    return ModelSpec(
        name=recipe.name,
        version="1",
        family=FAMILY,
        hyperparameters={**recipe.architecture, "num_classes": len(train.labels)},
        preprocess=preprocess,
        labels=train.labels,
        provenance=provenance,
    )


def rank_and_processes() -> tuple[int, int]:
    """This process's rank and the number of processes, as set by torchrun; 0 of 1 without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def pick_device(rank: int) -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", rank % torch.cuda.device_count())
    return torch.device("cpu")
