"""One training run: network, averaged weights, optimisers, and their state on disk."""

import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from model.augment import cutmix, flip_and_shift
from model.checkpoint import Checkpoint, write_checkpoint
from model.dataset import Dataset
from model.errors import ModelError
from model.muon import Muon
from model.normalise import Normalise
from model.recipe import Recipe
from model.runfiles import find_plotter, find_state, save_state, write_metrics
from model.spec import ModelSpec, PreprocessSpec
from model.start import FAMILY, take_over
from model.xcit import LayerScale, XCiT

TEST_BATCH_SIZE = 250
FAR_ENOUGH = 0.5  # of the way from the first weights to the latest, for the average


class Trainer:
    """One run, from random weights or from those of ``start``."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        train: Dataset,
        test: Dataset,
        start: Checkpoint | None = None,
    ) -> None:
        self.recipe, self.out, self.train_set, self.test_set = recipe, out, train, test
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
        average = get_ema_multi_avg_fn(recipe.average)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(self.network, multi_avg_fn=average, use_buffers=True)
        self.optimizers = build_optimizers(self.network, recipe)
        self.history: list[dict[str, float]] = []

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return len(self.history)

    def run(self) -> None:
        """Train what is left of the run, and save it after every epoch."""
        self._restore()
        model: nn.Module = self.network
        plot = find_plotter() if self.rank == 0 else None
        if self.rank == 0 and not plot:
            warn("matplotlib is not installed, so curves.png is not drawn")
        if self.processes > 1:
            model = DistributedDataParallel(self.network)
        while self.epoch < self.recipe.epochs:
            loss = self._train_epoch(model)
            accuracy = self._test_accuracy()
            rate = self.recipe.rate(self.epoch + 1)
            self.history.append(
                {
                    "epoch": self.epoch + 1,
                    "rate": round(rate, 4),
                    "train_loss": round(loss, 4),
                    "test_accuracy": round(accuracy, 4),
                }
            )
            if self.rank == 0:
                self._save()
                if plot:
                    plot(self.out / "curves.png", self.history)
                print(", ".join(f"{k} {v}" for k, v in self.history[-1].items()), flush=True)
        if self.rank == 0 and self.moved() < FAR_ENOUGH:
            warn(
                f"the averaged weights, which are kept, have moved only {self.moved():.0%} of the "
                f"way from the start; --average={self.recipe.average} is too slow for "
                f"{self.steps * self.epoch} steps: lower it, or train for more epochs"
            )

    @property
    def steps(self) -> int:
        """Steps per epoch."""
        return len(self.train_set) // self.recipe.batch_size

    def moved(self) -> float:
        """How far the averaged weights have come from the first to the latest ones, 0 to 1."""
        way = flatten(self.network) - self.first_weights
        done = flatten(self.average.module) - self.first_weights
        return float((done @ way / (way @ way).clamp(min=1e-12)).clamp(0, 1))

    def _train_epoch(self, model: nn.Module) -> float:
        """One pass over the training images; the mean loss."""
        recipe, steps = self.recipe, self.steps
        order = torch.randperm(len(self.train_set), generator=self._generator(rank=0))
        generator = self._generator(rank=1 + self.rank)
        model.train()
        total = 0.0
        for step in self._progress(range(steps), f"epoch {self.epoch + 1}/{recipe.epochs}"):
            self._set_rate(recipe.rate(self.epoch + step / steps))
            batch = order[step * recipe.batch_size :][: recipe.batch_size]
            batch = batch[self.rank :: self.processes]
            pixels = flip_and_shift(self.train_set.pixels[batch], generator)
            pixels, pasted = cutmix(pixels, recipe.cutmix, generator)
            pixels, pasted = pixels.to(self.device), pasted.to(self.device)
            classes = self.train_set.classes[batch].to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=fast_bf16(self.device)):
                logits = model(self.normalise(pixels))
            seen, added = (
                F.cross_entropy(
                    logits.float(), each, reduction="none", label_smoothing=recipe.label_smoothing
                )
                for each in (classes, classes.roll(1))
            )
            loss = (seen + pasted * (added - seen)).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad()
            self.average.update_parameters(self.network)
            total += loss.item()
            if not total < float("inf"):
                raise ModelError(f"the loss became {total}; a lower learning rate may help")
        return total / steps

    def _test_accuracy(self) -> float:
        """Top-1 of the averaged weights; each process takes its share of the test images."""
        shard = slice(self.rank, None, self.processes)
        network = nn.Sequential(self.normalise, self.average).eval()
        with torch.inference_mode():
            predicted = [
                network(pixels.to(self.device)).argmax(-1).cpu()
                for pixels in torch.split(self.test_set.pixels[shard], TEST_BATCH_SIZE)
            ]
        correct = (torch.cat(predicted) == self.test_set.classes[shard]).sum()
        if self.processes > 1:
            dist.all_reduce(correct)
        return correct.item() / len(self.test_set)

    def _generator(self, rank: int) -> torch.Generator:
        """Random numbers that depend on seed, epoch and process alone, not on what was resumed."""
        return torch.Generator().manual_seed(self.recipe.seed + 1000 * self.epoch + 10**6 * rank)

    def _set_rate(self, factor: float) -> None:
        rates = (self.recipe.muon_lr, self.recipe.adamw_lr)
        for optimizer, rate in zip(self.optimizers, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor

    def _progress(self, steps: range, title: str) -> "tqdm[int]":
        return tqdm(steps, desc=title, unit="step", mininterval=2, disable=self.rank > 0)

    def _save(self) -> None:
        """State, checkpoint and metrics, each replaced whole or not at all."""
        state = {
            "recipe": asdict(self.recipe),
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "history": self.history,
            "labels": [*self.train_set.labels],
        }
        save_state(self.out / "last.pt", state)
        if self.epoch <= self.recipe.decay_start:
            save_state(self.out / "steady.pt", state)
        accuracy = f"{self.history[-1]['test_accuracy']:.2%} top-1 after {self.epoch} epochs"
        spec = replace(self.spec, provenance={**self.spec.provenance, "accuracy": accuracy})
        write_checkpoint(
            self.out / f"{self.recipe.name}.safetensors", spec, self.average.module.state_dict()
        )
        write_metrics(self.out / "metrics.csv", self.history)

    def _restore(self) -> None:
        state = find_state(self.out, self.recipe, self.train_set.labels)
        if state is None:
            return
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.history = state["history"]


def initialise(network: XCiT) -> None:
    """Start for short runs from scratch: quiet positions, whole branches, plain linear layers."""
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


def warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)


def build_optimizers(network: XCiT, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices; AdamW for embedding, head, kernels, norms and scales."""
    hidden: list[Tensor] = []
    kernels: list[Tensor] = []
    vectors: list[Tensor] = []
    for name, weight in network.named_parameters():
        is_hidden = weight.ndim == 2 and "transformer" in name
        (hidden if is_hidden else kernels if weight.ndim > 1 else vectors).append(weight)
    groups: list[dict[str, Any]] = [
        {"params": kernels, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [
        Muon(hidden, recipe.muon_lr, weight_decay=recipe.weight_decay),
        torch.optim.AdamW(groups, lr=recipe.adamw_lr, betas=(0.9, 0.99)),
    ]


def describe(recipe: Recipe, train: Dataset, start: Checkpoint | None) -> ModelSpec:
    """The spec of the run's checkpoint.

    Its mean is that of the training images, its std theirs over ``input_scale``. The first
    LayerNorm sees one patch at a time: at the usual scale it would blow up the noise of a flat
    patch to the strength of an edge; where its epsilon has a say, it does not. A run that starts
    with a checkpoint keeps to the preprocessing that its weights know.
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
    """This process's number and their count, as torchrun tells them; 0 of 1 without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def pick_device(rank: int) -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", rank % torch.cuda.device_count())
    return torch.device("cpu")


def fast_bf16(device: torch.device) -> bool:
    """Whether 16-bit arithmetic is in the hardware; emulated it is slower than 32 bits."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu.get_capabilities().get("avx512_bf16"))
