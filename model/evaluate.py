"""How good a checkpoint is: accuracy overall and by class, and how honest its scores are."""

import argparse
import json
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from model.checkpoint import read_checkpoint
from model.dataset import load_dataset
from model.errors import ModelError
from model.normalise import Normalise

BATCH_SIZE = 250
BINS = 15


@dataclass(frozen=True, slots=True)
class Report:
    """Figures over a set of images.

    Attributes:
        calibration_error: mean distance between score and accuracy over bins of the score, by
            share of images (expected calibration error, Guo and others 2017).
    """

    images: int
    top_1: float
    top_5: float
    negative_log_likelihood: float
    calibration_error: float
    by_class: dict[str, float]


def predict_probabilities(
    network: nn.Module, pixels: Tensor, device: torch.device, *, quiet: bool = True
) -> Tensor:
    """Probabilities ``(n, classes)`` of pixels ``(n, h, w, 3)``; ``network`` normalises."""
    batches = tqdm(torch.split(pixels, BATCH_SIZE), desc="evaluate", unit="batch", disable=quiet)
    with torch.inference_mode():
        return torch.cat([network(batch.to(device)).softmax(-1).cpu() for batch in batches])


def report(probabilities: Tensor, classes: Tensor, labels: tuple[str, ...]) -> Report:
    """The figures for probabilities ``(n, classes)`` and true classes ``(n,)``."""
    scores, predicted = probabilities.max(-1)
    right = predicted == classes
    best = probabilities.topk(min(5, len(labels))).indices
    return Report(
        images=len(classes),
        top_1=right.double().mean().item(),
        top_5=(best == classes[:, None]).any(-1).double().mean().item(),
        negative_log_likelihood=F.nll_loss(probabilities.log(), classes).item(),
        calibration_error=calibration_error(scores, right),
        by_class={
            label: right[classes == i].double().mean().item() for i, label in enumerate(labels)
        },
    )


def calibration_error(scores: Tensor, right: Tensor) -> float:
    """Expected calibration error of scores ``(n,)`` over equal bins."""
    bins = (scores * BINS).long().clamp(max=BINS - 1)
    distance = torch.zeros(BINS).double().index_add(0, bins, scores.double() - right.double())
    return distance.abs().sum().item() / len(scores)


def evaluate_command(args: argparse.Namespace) -> None:
    """Print the figures of ``args.checkpoint`` on the test images of ``args.data``."""
    checkpoint = read_checkpoint(args.checkpoint)
    data = load_dataset(args.data, "test", checkpoint.spec.preprocess)
    if data.labels != checkpoint.spec.labels:
        raise ModelError(
            f"{args.data}: its labels are {list(data.labels)}; "
            f"the checkpoint's are {list(checkpoint.spec.labels)}"
        )
    network = nn.Sequential(Normalise(checkpoint.spec.preprocess), checkpoint.build()).eval()
    probabilities = predict_probabilities(network, data.pixels, torch.device("cpu"), quiet=False)
    result = report(probabilities, data.classes, data.labels)
    if args.json:
        print(json.dumps(asdict(result), indent=2))
        return
    print(f"{result.images} images: top-1 {result.top_1:.2%}, top-5 {result.top_5:.2%}")
    print(f"negative log-likelihood {result.negative_log_likelihood:.4f}")
    print(f"calibration error {result.calibration_error:.4f}")
    for label, accuracy in result.by_class.items():
        print(f"  {label:<20} {accuracy:.2%}")
