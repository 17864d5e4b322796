"""Deterministic mode: an image has the same logits, bit for bit, in every batch.

A kernel adds the same numbers for every row of a batch, but their order may depend on the batch
size and on the row. So one batch size is the reference. On a CPU it is a single image, which cannot
depend on others. Other sizes are used only if they give the same bits for images alone and among
others, at every position. In 32 bits nearly every image shows a different order. In 16 bits
rounding hides it in most images, so the kernels must be the same, too; a backend that does not
report them runs the reference only.

Neither the sizes nor the threads of a pass depend on timing, so every start and every process
computes the same.
"""

import os
from collections.abc import Collection
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import torch

from model.backends.agreement import self_test_images
from model.backends.base import Backend, batch_sizes
from model.errors import ModelError
from model.images.preprocess import Pixels
from model.scores import Logits

IMAGES = 16
PASSES = 4  # of each batch size, so that each position sees as many images
REFERENCE_ON_GPU = 16  # images, by default; a single one takes a GPU half as long


@dataclass(frozen=True, slots=True)
class Proof:
    """The batch sizes in which a backend gives the same bits.

    Attributes:
        sizes: in ascending order.
        reference: the size that defines the bits.
        images, expected: the compared images, and their logits.
    """

    sizes: tuple[int, ...]
    reference: int
    images: Pixels
    expected: Logits

    @property
    def fingerprint(self) -> str:
        """A digest of the logits, equal on backends that compute the same bits."""
        return sha256(self.expected.tobytes()).hexdigest()[:16]

    def __str__(self) -> str:
        """For logs and the reason of the choice."""
        sizes = ", ".join(map(str, self.sizes))
        return f"deterministic in batches of {sizes}"

    def check(self, backend: Backend, sizes: Collection[int]) -> None:
        """Repeat the comparison in the calling thread; raises `ModelError` if logits differ."""
        for size in sizes:
            if fault := difference(backend, size, self):
                raise ModelError(f"not deterministic: {fault}")


def prove(backend: Backend, image_size: int, largest: int | None = None) -> Proof | str:
    """Find the batch sizes that give the same bits; the reason if not even the reference does.

    Args:
        largest: the largest batch size to try, and the reference on a GPU; by default the backend's
            largest, and `REFERENCE_ON_GPU`.
    """
    reference = 1 if backend.device == "cpu" else largest or REFERENCE_ON_GPU
    images = probe_images(image_size)
    alone = [backend.logits(np.repeat(image[None], reference, 0))[:1] for image in images]
    proof = Proof((reference,), reference, images, np.concatenate(alone))
    if fault := difference(backend, reference, proof):
        return fault
    same = [
        size
        for size in batch_sizes(largest or backend.largest_batch)
        if size == reference
        or (may_be_same(backend, size, reference) and not difference(backend, size, proof))
    ]
    return Proof(tuple(same), reference, images, proof.expected)


def may_be_same(backend: Backend, size: int, reference: int) -> bool:
    """Whether the logits of all images are likely equal if those of a few are."""
    if backend.precision == "float32":
        return True
    kernels = backend.kernels(size)
    return kernels is not None and kernels == backend.kernels(reference)


def difference(backend: Backend, size: int, proof: Proof) -> str | None:
    """Describe the first image whose logits in a batch of this size differ from the reference."""
    order = np.random.default_rng(size)
    for _ in range(PASSES):
        rows = np.resize(order.permutation(len(proof.images)), size)
        found, expected = backend.logits(proof.images[rows]), proof.expected[rows]
        differs = (found.view(np.uint32) != expected.view(np.uint32)).any(1)
        if differs.any():
            position = int(differs.argmax())
            distance = np.abs(found[position] - expected[position]).max()
            return (
                f"at position {position} of a batch of {size}, the logits of an image differ by "
                f"{distance:.2g} from those in a batch of {proof.reference} copies"
            )
    return None


def probe_images(image_size: int) -> Pixels:
    """Images ``(IMAGES, image_size, image_size, 3)``: those of the self-test, and noise."""
    known = self_test_images(image_size)
    chance = np.random.default_rng(1)
    shape = (IMAGES - len(known), image_size, image_size, 3)
    noise = chance.integers(0, 256, shape) * chance.random((shape[0], 1, 1, 1))
    return np.concatenate((known, noise.astype(np.uint8)))


def repeat_algorithms() -> None:
    """Make NVIDIA's libraries and Inductor choose the same algorithms in every process.

    Otherwise cuBLAS may choose by its workspace, and Inductor by timing. Cannot be undone.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ["TORCHINDUCTOR_DETERMINISTIC"] = "1"  # read when Inductor is imported
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
