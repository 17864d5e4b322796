"""PyTorch on an NVIDIA GPU, with kernels that Inductor compiles for this network.

Inductor merges element-wise operations and reductions into Triton kernels, which take tens of
seconds to compile for each batch size. PyTorch keeps them on disk and finds them again.
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
# PyTorch gives up on a function that it compiled 8 times, and each batch size is one time.
RECOMPILE_LIMIT = 2**16

logger = logging.getLogger(__name__)


class CompiledCudaBackend(CudaBackend):
    """A CUDA graph of the compiled pass for each batch size.

    Args:
        network, device, precision, streams: see `CudaBackend`.
        workers: how many processes compile kernels side by side.
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
        """End the processes that compile: the batch sizes are chosen, and all have been run."""
        from torch._inductor.async_compile import shutdown_compile_workers

        shutdown_compile_workers()


class CompiledNetwork(nn.Module):
    """A network that is compiled anew for each shape of its input, by the first pass of that shape.

    Kernels for a known shape are faster than kernels for any. Inductor records no CUDA graphs of
    its own here, so that a caller can record one.

    Args:
        network: pixels ``(b, h, w, 3)`` to logits ``(b, classes)``.
        workers: how many processes compile Triton kernels side by side.
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
        logger.info("compiling the network for batches of %d", size)
        begun = time.perf_counter()
        run(self.network, example)  # fills einops' caches, which a compiled pass depends on
        try:
            self._run(self.network, example)
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except RuntimeError as error:
            raise _explain(error) from error
        self._shapes.add(example.shape)
        seconds = time.perf_counter() - begun
        logger.info("compiled the network for batches of %d in %.1f s", size, seconds)


def run(network: nn.Module, pixels: Tensor) -> Tensor:
    """One pass, as one function of this package: PyTorch compiles the parts of its own one by one.

    ``nn.Module.compile`` of an ``nn.Sequential`` gives a graph for each of its steps.
    """
    logits: Tensor = network(pixels)
    return logits


@contextmanager
def compiler_settings(workers: int) -> Iterator[None]:
    """PyTorch's compiler configured for one network in many shapes, in the calling thread.

    Warnings are ignored: they advise the author of a network, on TF32 for example.
    """
    import torch._dynamo
    import torch._inductor.config

    limits = {
        "recompile_limit": RECOMPILE_LIMIT,
        "accumulated_recompile_limit": RECOMPILE_LIMIT,
    }
    with ExitStack() as stack:
        stack.enter_context(torch._dynamo.config.patch(limits))
        stack.enter_context(torch._inductor.config.patch(compile_threads=workers))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield


def keep_kernels(cache_dir: Path | None) -> Path:
    """Have PyTorch and Triton keep what they compile in the cache, from now on in this process.

    Without a cache that can be used, it is kept in a temporary directory until the process ends:
    PyTorch's own default in /tmp has a name that another user can guess and create first.

    Returns:
        The directory. It is open to this user alone.
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
    """What went wrong on one line, and which program is missing if that is the likely cause."""
    reason = _reason(error)
    if not os.environ.get("CC") and not any(map(shutil.which, ("gcc", "clang"))):
        reason = f"no C compiler was found, which Triton needs: install gcc ({reason})"
    return RuntimeError(f"the network cannot be compiled: {reason}")


def _reason(error: RuntimeError) -> str:
    """The first line of an error; the last one of an error in a process that compiled a kernel."""
    details = getattr(getattr(error, "inner_exception", None), "details", "").strip()
    return str(details.splitlines()[-1] if details else str(error).strip().partition("\n")[0])
