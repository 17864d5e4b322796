"""PyTorch on an NVIDIA GPU, with kernels that Inductor compiles for this network.

Inductor merges element-wise operations and reductions into Triton kernels, which take tens of
seconds to compile per batch size. PyTorch caches them on disk.
"""

import atexit
import functools
import logging
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from model.backends.cache import open_cache, open_closed
from model.backends.cuda import CudaBackend

SUBDIRECTORY = "torch"
# PyTorch stops compiling a function after 8 versions by default, and each batch size is one.
RECOMPILE_LIMIT = 2**16

logger = logging.getLogger(__name__)


class CompiledCudaBackend(CudaBackend):
    """A CUDA graph of the compiled pass for each batch size.

    Args:
        network, device, precision, streams: see `CudaBackend`.
        workers: number of processes that compile kernels side by side.
    """

    name = "torch-compile-cudagraphs"

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        precision: str,
        *,
        streams: int = 2,
        workers: int = 1,
    ) -> None:
        super().__init__(CompiledNetwork(network, workers), device, precision, streams=streams)

    def keep(self, sizes: Collection[int]) -> None:
        """Stop the compiler processes: all chosen batch sizes have been run."""
        from torch._inductor.async_compile import shutdown_compile_workers

        shutdown_compile_workers()


class CompiledNetwork(nn.Module):
    """A network that is compiled for each input shape, in the first pass with that shape.

    Kernels for a fixed shape are faster than generic ones. Inductor's own CUDA graphs are disabled,
    so that the caller can record one.

    Args:
        network: pixels ``(b, h, w, 3)`` to logits ``(b, classes)``.
        workers: number of processes that compile Triton kernels side by side.
    """

    def __init__(self, network: nn.Module, workers: int = 1) -> None:
        super().__init__()
        self.network = network
        self._run = torch.compile(
            run, fullgraph=True, dynamic=False, options={"triton.cudagraphs": False}
        )
        self._workers = workers
        self._shapes: set[torch.Size] = set()

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels ``(b, h, w, 3)`` to logits ``(b, classes)``.

        Raises:
            RuntimeError: the network cannot be compiled.
        """
        with compiler_settings(self._workers):
            if pixels.shape not in self._shapes:
                self._compile(pixels)
            return self._run(self.network, pixels)

    def _compile(self, example: Tensor) -> None:
        size = len(example)
        logger.info("compiling the network for batches of %d images", size)
        begun = time.perf_counter()
        run(self.network, example)  # fills einops' caches, which compiled code depends on
        try:
            self._run(self.network, example)
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except RuntimeError as error:
            raise _explain(error) from error
        self._shapes.add(example.shape)
        seconds = time.perf_counter() - begun
        logger.info("compiled the network for batches of %d images in %.1f s", size, seconds)


def run(network: nn.Module, pixels: Tensor) -> Tensor:
    """Run the network from a function of this package, so that it is compiled as one graph.

    ``nn.Module.compile`` of an ``nn.Sequential`` compiles each of its steps separately.
    """
    logits: Tensor = network(pixels)
    return logits


@contextmanager
def compiler_settings(workers: int) -> Iterator[None]:
    """Configure PyTorch's compiler for one network in many shapes, in the calling thread.

    Warnings are ignored: they address the author of a network, on TF32 for example.
    """
    import torch._inductor.config
    import torch.compiler.config

    limits = {
        "recompile_limit": RECOMPILE_LIMIT,
        "accumulated_recompile_limit": RECOMPILE_LIMIT,
    }
    with ExitStack() as stack:
        stack.enter_context(torch.compiler.config.patch(limits))  # type: ignore[attr-defined]
        stack.enter_context(torch._inductor.config.patch(compile_threads=workers))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield


def keep_kernels(cache_dir: Path | None) -> Path:
    """Make PyTorch and Triton keep compiled kernels in the cache, for the rest of this process.

    If the cache cannot be used, kernels go to a temporary directory until the process ends:
    PyTorch's default in /tmp has a predictable name that another user could create first.

    Returns:
        The directory. Only this user can enter it.
    """
    cache = open_cache(cache_dir) if cache_dir else None
    kernels = open_closed(cache / SUBDIRECTORY) if cache else None
    directory = kernels or _temporary_directory()
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(directory)
    os.environ["TRITON_CACHE_DIR"] = str(directory / "triton")
    return directory


@functools.cache
def _temporary_directory() -> Path:
    directory = tempfile.mkdtemp(prefix="xcit-serve-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return Path(directory)


def _explain(error: RuntimeError) -> RuntimeError:
    """The error on one line, naming the missing program if that is the likely cause."""
    reason = _reason(error)
    if not os.environ.get("CC") and not any(map(shutil.which, ("gcc", "clang"))):
        reason = f"Triton needs a C compiler, and none was found: install gcc ({reason})"
    return RuntimeError(f"the network cannot be compiled: {reason}")


def _reason(error: RuntimeError) -> str:
    """The first line of an error; for an error in a compiler process, its last line."""
    details = getattr(getattr(error, "inner_exception", None), "details", "").strip()
    return str(details.splitlines()[-1] if details else str(error).strip().partition("\n")[0])
