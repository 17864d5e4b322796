"""A training step on one GPU that does not wait for Python.

A small network is bound by memory traffic and kernel launches. Compiled layers merge the operations
between matrix products, and a CUDA graph launches the whole step at once. If either fails on some
version or device, training continues without it, with a warning.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import torch
from torch import nn

from model.families.xcit import LocalPatchInteraction, PatchLayer, XCiT
from training import warn
from training.batches import Batch
from training.recipe import Recipe
from training.step import Step, fast_bf16

WARM_UP = 3  # compiled steps before recording, which compile, tune and allocate
ROUNDS = 10


class GpuStep:
    """Runs steps of one shape: first uncompiled, then compiled, then as a recording."""

    def __init__(self, step: Step, layers: Sequence[nn.Module]) -> None:
        self.step, self.layers = step, layers
        self.stream = torch.cuda.Stream(step.device)  # type: ignore[no-untyped-call]
        self.done = 0
        self.recording: Recording | None = None
        self.can_record = True

    def __call__(self, batch: Batch) -> None:
        if self.recording:
            self.recording(batch)
        elif self.done == 1:
            self._compiled(batch)
        elif self.done > WARM_UP and self.can_record:
            self._record(batch)
        else:
            self._plain(batch)
        self.done += 1

    def _plain(self, batch: Batch) -> None:
        with beside(self.stream):
            self.step(batch)

    def _compiled(self, batch: Batch) -> None:
        """Compile the layers, whose code is the same, once for all of them.

        The first step is not compiled: it fills caches on which compiled code depends.
        """
        try:
            for layer in self.layers:
                layer.forward = torch.compile(layer.forward, fullgraph=True, dynamic=False)
            self._plain(batch)
        except Exception as error:  # compilers raise errors of many types
            warn(f"compiling failed; layers run uncompiled: {first_line(error)}")
            for layer in self.layers:
                vars(layer).pop("forward", None)
            self.step.forget_gradients()
            self._plain(batch)

    def _record(self, batch: Batch) -> None:
        try:
            self.recording = Recording(self.step, batch, self.stream)
        except Exception as error:  # so does recording
            warn(f"recording a CUDA graph failed; Python launches every step: {first_line(error)}")
            self.can_record = False
            self.step.forget_gradients()
            self._plain(batch)
        else:
            self.recording(batch)


class Recording:
    """A CUDA graph of a step; each call replays it on another batch of the same shape."""

    def __init__(self, step: Step, batch: Batch, stream: torch.cuda.Stream) -> None:
        self.batch = Batch(*(part.clone() for part in batch))
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
            step(self.batch)

    def __call__(self, batch: Batch) -> None:
        for mine, given in zip(self.batch, batch, strict=True):
            mine.copy_(given)
        self.graph.replay()


def prepare(recipe: Recipe, device: torch.device) -> None:
    """Select the fastest arithmetic for a recipe's steps, for the whole process."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.enabled = cudnn_is_faster(
        recipe.dim,
        recipe.local_patch_kernel_size,
        recipe.image_size // recipe.patch_size,
        recipe.batch_size,
        device,
    )


@cache  # cached because compiled code depends on it
def cudnn_is_faster(
    dim: int, kernel_size: int, grid: int, images: int, device: torch.device
) -> bool:
    """Whether cuDNN computes local interactions faster than PyTorch's own kernels.

    For depth-wise convolutions that depends on device, version and shape.
    """
    interaction = LocalPatchInteraction(dim, kernel_size, grid).to(device)
    tokens = torch.randn(images, grid**2, dim, device=device, requires_grad=True)
    seconds = []
    for enabled in (True, False):
        torch.backends.cudnn.enabled = enabled
        try:
            seconds.append(_seconds(interaction, tokens))
        except RuntimeError as error:
            warn(
                f"convolutions {'with' if enabled else 'without'} cuDNN failed: {first_line(error)}"
            )
            seconds.append(float("inf"))
    with_cudnn, without = seconds
    print(
        f"convolutions by {'cuDNN' if with_cudnn <= without else 'PyTorch'}: a local interaction "
        f"takes {1e3 * with_cudnn:.2f} ms with cuDNN and {1e3 * without:.2f} ms without",
        flush=True,
    )
    return with_cudnn <= without


def _seconds(module: nn.Module, tokens: torch.Tensor) -> float:
    """Median seconds of a forward and backward pass."""
    times = []
    for _ in range(ROUNDS):
        begun, ended = (
            torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            for _ in range(2)
        )
        begun.record()
        with torch.autocast("cuda", torch.bfloat16, enabled=fast_bf16(tokens.device)):
            out = module(tokens)
        out.float().sum().backward()
        ended.record()
        torch.cuda.synchronize()
        times.append(begun.elapsed_time(ended) / 1e3)
    return sorted(times)[ROUNDS // 2]


@contextmanager
def beside(stream: torch.cuda.Stream) -> Iterator[None]:
    """Run on another CUDA stream, in order with the current one, as recording requires."""
    current = torch.cuda.current_stream(stream.device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        yield
    current.wait_stream(stream)


def layers_to_compile(network: XCiT) -> list[nn.Module]:
    """The layers over the patches, which take nearly all of the time."""
    return [layer for layer in network.xcit_transformer.layers if isinstance(layer, PatchLayer)]


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
