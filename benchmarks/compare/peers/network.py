"""Shared by all peers: the network in eager PyTorch, after the usual lines of Pillow."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor, nn

from model.checkpoint import read_checkpoint
from model.families.simplify import baseline
from model.spec import PreprocessSpec

TOP_K = 5
MAX_BATCH_SIZE = 16  # for every peer that batches
INSTANCES = 2  # copies of the model with one thread each, if a peer supports several

Pixels = NDArray[np.uint8]
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    module: nn.Module
    preprocess: PreprocessSpec
    labels: Sequence[str]

    def pixels(self, image: Image.Image) -> Pixels:
        """The centre square, resized: ``(image_size, image_size, 3)``."""
        size, margin = self.preprocess.image_size, (1 - self.preprocess.crop_pct) / 2
        method = Image.Resampling.BICUBIC
        return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), method, bleed=margin))

    @torch.inference_mode()
    def logits(self, batch: Tensor) -> Tensor:
        """Logits of pixels ``(b, h, w, 3)``."""
        logits: Tensor = self.module(batch)
        return logits

    def best(self, logits: Tensor) -> list[Row]:
        """The most likely classes of one image, from its ``(classes,)`` logits."""
        scores, classes = logits.softmax(dim=0).topk(min(TOP_K, len(self.labels)))
        pairs = zip(classes.tolist(), scores.tolist(), strict=True)
        return [{"class_id": i, "label": self.labels[i], "score": score} for i, score in pairs]


def load_network(path: str | Path) -> Network:
    checkpoint = read_checkpoint(path)
    spec = checkpoint.spec
    return Network(baseline(checkpoint.build(), spec.preprocess), spec.preprocess, spec.labels)


def arguments(name: str) -> argparse.ArgumentParser:
    """Arguments that all peers share."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.compare.peers.{name}")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--port", type=int, required=True)
    return parser
