"""The recipe that made the bundled checkpoint.

    python -m model.train run DATA --out runs/cifar10
    torchrun --nproc-per-node 2 -m model.train run DATA --out runs/cifar10
    python -m model.train evaluate CHECKPOINT DATA

A run may be killed at any time and started again with the same command: it goes on from its last
whole epoch, and ends with the weights of a run never killed. ``--epochs`` may be raised later: the
run then goes on from where its rates began to fall. ``--start CHECKPOINT`` begins with the weights
of another run: for a second round with other choices, or for classes of one's own.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
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
from model.backends.base import BackendOptions
from model.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from model.classifier import load_classifier
from model.dataset import Dataset, load_dataset
from model.errors import ModelError
from model.evaluate import evaluate
from model.muon import Muon
from model.normalise import Normalise
from model.recipe import Recipe
from model.runfiles import find_state, plot_curves, save_state, write_metrics
from model.spec import ModelSpec, PreprocessSpec
from model.xcit import LayerScale, XCiT

TEST_BATCH_SIZE = 250


class Trainer:
    """One run: network, averaged weights, optimisers, history, and their state on disk."""

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
            take_over(self.network, start)
        self.network.to(self.device)
        average = get_ema_multi_avg_fn(recipe.average)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(self.network, multi_avg_fn=average, use_buffers=True)
        self.optimizers = build_optimizers(self.network, recipe)
        self.history: list[dict[str, float]] = []

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return len(self.history)

    def run(self) -> None:
        self._restore()
        model: nn.Module = self.network
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
                print(", ".join(f"{k} {v}" for k, v in self.history[-1].items()), flush=True)

    def _train_epoch(self, model: nn.Module) -> float:
        """One pass over the training images; the mean loss."""
        recipe, steps = self.recipe, len(self.train_set) // self.recipe.batch_size
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
        """State, checkpoint, metrics and curves, each replaced whole or not at all."""
        state = {
            "recipe": asdict(self.recipe),
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "history": self.history,
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
        plot_curves(self.out / "curves.png", self.history)

    def _restore(self) -> None:
        state = find_state(self.out, self.recipe)
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


def take_over(network: XCiT, checkpoint: Checkpoint) -> None:
    """Begin with the weights of ``checkpoint``; where its classes are others, not with its head."""
    state = dict(checkpoint.state)
    if checkpoint.spec.num_classes != network.mlp_head[-1].out_features:
        state |= {k: v for k, v in network.state_dict().items() if k.startswith("mlp_head.1.")}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(
            f"{checkpoint.path}: another architecture than the recipe's: {error}"
        ) from error


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
    provenance = {"recipe": "python -m model.train run", "images": str(len(train))}
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
        family="vit_pytorch",
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


def run_command(args: argparse.Namespace) -> None:
    recipe = Recipe(**{f.name: getattr(args, f.name) for f in fields(Recipe)})
    rank, processes = rank_and_processes()
    if processes > 1:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    args.out.mkdir(parents=True, exist_ok=True)
    start = read_checkpoint(recipe.start) if recipe.start else None
    preprocess = start.spec.preprocess if start else PreprocessSpec(recipe.image_size)
    train, test = (
        load_dataset(args.data, split, preprocess, quiet=rank > 0) for split in ("train", "test")
    )
    if train.labels != test.labels:
        raise ModelError(f"{args.data}: train and test hold different labels")
    Trainer(recipe, args.out, train, test, start).run()
    if processes > 1:
        dist.destroy_process_group()


def evaluate_command(args: argparse.Namespace) -> None:
    """Print the figures of a checkpoint on the test images, through the server's own path."""
    workers = torch.get_num_threads()
    classifier = load_classifier(args.checkpoint, options=BackendOptions(cores=workers))
    report = evaluate(classifier, args.data, split="test", workers=workers)
    print(json.dumps(asdict(report), indent=2) if args.json else report)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.train", description="Train an XCiT.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="train, or go on with a run that was stopped")
    run.add_argument("data", type=Path, help="image folder, or a tar of one")
    run.add_argument("--out", type=Path, required=True, help="directory of the run's files")
    for choice in fields(Recipe):
        run.add_argument(
            f"--{choice.name.replace('_', '-')}",
            type=type(choice.default),
            default=choice.default,
            help=f"{choice.metadata['help']} (default {choice.default})",
        )
    run.set_defaults(command=run_command)

    test = commands.add_parser("evaluate", help="measure a checkpoint on the test images")
    test.add_argument("checkpoint", type=Path)
    test.add_argument("data", type=Path, help="image folder, or a tar of one")
    test.add_argument("--json", action="store_true", help="print one JSON object")
    test.set_defaults(command=evaluate_command)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    try:
        args.command(args)
    except ModelError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
