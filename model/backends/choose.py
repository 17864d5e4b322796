"""Choosing the backend of a network: the first in a chain of candidates that works and agrees.

A candidate that fails to build, compile or agree is logged, skipped and named in the reason that
`choose_backend` returns. A device or backend that the caller named is never replaced: if it does
not work, that is an error.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import nn

from model.backends.agreement import disagreement
from model.backends.base import Backend, BackendOptions, Build
from model.backends.cache import open_cache
from model.backends.compiled import CompiledCudaBackend, keep_kernels
from model.backends.cuda import CudaBackend
from model.backends.determinism import Proof, prove, repeat_algorithms
from model.backends.streams import divide_cores
from model.backends.torch import (
    TorchBackend,
    cast,
    choose_device,
    fastest_precision,
    to_script,
    visible_devices,
)
from model.errors import CheckpointError, ModelError
from model.scores import Logits, Scores

STREAMS = {"cuda": 2}  # by kind of device, for devices other than the CPU; default 1
MAX_REASON = 200  # characters quoted from an error

logger = logging.getLogger(__name__)

Network = Callable[[], nn.Sequential]


class Choice(NamedTuple):
    """A backend, the reason why it was chosen, and in deterministic mode, what was proved of it."""

    backend: Backend
    reason: str
    proof: Proof | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A backend by name, with its device and precision."""

    name: str
    device: torch.device
    precision: str

    def __str__(self) -> str:
        return f"{self.name} in {self.precision} on {self.device}"


def choose_backend(
    network: Network,
    image_size: int,
    expected: Scores,
    options: BackendOptions,
    overhead: Callable[[], float] | None = None,
    embeddings: Logits | None = None,
) -> Choice:
    """The first candidate that works and agrees with 32-bit PyTorch, in order of expected speed.

    Args:
        network: builds a new network for each candidate: pixels ``(b, h, w, 3)`` as bytes to logits
            ``(b, classes)``, in 32 bits on the CPU. Its first step takes the bytes.
        image_size: pixels per side.
        expected: probabilities ``(b, classes)`` of `self_test_images` by 32-bit PyTorch.
        overhead: measures the CPU seconds that an image takes outside the network, if that work
            runs on the same cores.
        embeddings: of `self_test_images` by 32-bit PyTorch, if the network's outputs end with them.

    Raises:
        CheckpointError: the network cannot be built.
        ModelError: a named device or backend is not available, or no candidate works.
    """
    refused: list[str] = []
    for device in _devices(options, refused):
        if options.compile and device.type != "cuda":
            refused.append(_without_compiling(options, device))
        for candidate in _candidates(options, device):
            build = partial(_build, candidate, network, image_size, options, overhead)
            check = partial(disagreement, expected=expected, image_size=image_size)
            found = _attempt(build, partial(check, embeddings=embeddings), image_size, options)
            if not isinstance(found, str):
                reasons = (_first_reason(options, candidate), *refused, found.reason)
                return found._replace(reason="; ".join(reasons))
            logger.warning("backend %s is not used: %s", candidate, found)
            refused.append(f"not {candidate}: {found}")
    raise ModelError(f"no backend can run this model: {'; '.join(refused)}")


def _attempt(
    build: Callable[[], Backend],
    check: Callable[[Backend], str | None],
    image_size: int,
    options: BackendOptions,
) -> Choice | str:
    """The backend, or why it cannot be used; a rejected backend leaves no memory behind."""
    try:
        backend = build()
        if fault := check(backend):
            return fault
        agrees = "agrees with 32-bit PyTorch"
        if not options.deterministic:
            return Choice(backend, agrees)
        proof = prove(backend, image_size, options.largest_batch)
        if isinstance(proof, str):
            return f"not deterministic: {proof}"
        return Choice(backend, f"{agrees}; {proof}", proof)
    except CheckpointError:
        raise  # no other backend would help
    except Exception as error:
        logger.debug("a backend failed", exc_info=error)
        return describe(error)


def describe(error: Exception) -> str:
    """An error on one line of bounded length."""
    line = next(filter(None, map(str.strip, str(error).splitlines())), "")
    if not isinstance(error, ModelError | RuntimeError | OSError | ImportError) or not line:
        line = f"{type(error).__name__}: {line}".rstrip(": ")
    return line if len(line) <= MAX_REASON else f"{line[:MAX_REASON]}…"


def openvino_is_installed() -> bool:
    return find_spec("openvino") is not None


def _devices(options: BackendOptions, refused: list[str]) -> Iterator[torch.device]:
    """The named device, or all visible devices; those that fail are added to ``refused``."""
    if options.device != "auto":
        yield choose_device(options.device)
        return
    if options.backend == "openvino":
        yield torch.device("cpu")
        return
    for name in visible_devices():
        try:
            device = choose_device(name)
        except ModelError as error:
            logger.warning("%s", error)
            refused.append(describe(error))
        else:
            yield device


def _candidates(options: BackendOptions, device: torch.device) -> Iterator[Candidate]:
    """The candidates for a device, in order of expected speed."""
    names = _names(options, device)
    precision = fastest_precision(device) if options.precision == "auto" else options.precision
    precisions = dict.fromkeys((precision, "float32"))
    for name in names:
        yield from (Candidate(name, device, precision) for precision in precisions)


def _names(options: BackendOptions, device: torch.device) -> tuple[str, ...]:
    if options.backend == "openvino":
        if device.type != "cpu":
            raise ModelError(f"backend openvino runs on cpu, not on {device}")
        if not openvino_is_installed():
            raise ModelError(
                "backend openvino is not installed: pip install 'xcit-serve[openvino]'"
            )
        return ("openvino",)
    if device.type == "cuda":
        compiled = ("torch-compile-cudagraphs",) if options.compile else ()
        return *compiled, "torch-cudagraphs", "torch"
    if device.type == "cpu" and options.backend == "auto" and openvino_is_installed():
        return "openvino", "torch"
    return ("torch",)


def _without_compiling(options: BackendOptions, device: torch.device) -> str:
    """The reason why the network is not compiled; raises `ModelError` if a GPU was ruled out."""
    if options.backend == "openvino":
        raise ModelError("compile needs PyTorch on a CUDA device; the backend is openvino")
    if options.device != "auto":
        raise ModelError(f"compile needs a CUDA device; the device is {device}")
    reason = f"compile is for a CUDA device and has no effect on {device}"
    logger.warning("%s", reason)
    return reason


def _first_reason(options: BackendOptions, chosen: Candidate) -> str:
    """The first part of the reason for a choice."""
    if options.backend != "auto":
        return f"{options.backend} was requested"
    if chosen.device.type == "cpu" and not openvino_is_installed():
        return "openvino is not installed"
    return f"first choice on {chosen.device.type}"


def _build(
    candidate: Candidate,
    network: Network,
    image_size: int,
    options: BackendOptions,
    overhead: Callable[[], float] | None,
) -> Backend:
    """The backend with the requested number of streams, or the best one for its device."""
    build = _builder(candidate, network, image_size, options)
    single_threaded = options.deterministic or (candidate.name == "torch" and options.serving)
    if options.streams:
        threads = 1 if options.deterministic else max(1, options.cores // options.streams)
        if candidate.device.type == "cpu" and single_threaded and threads > 1:
            _warn_of_shared_passes(options, threads)
        return build(options.streams, threads)
    if candidate.device.type != "cpu":
        return build(STREAMS.get(candidate.device.type, 1), 1)
    return divide_cores(build, image_size, options, overhead, single_threaded=single_threaded)


def _warn_of_shared_passes(options: BackendOptions, threads: int) -> None:
    logger.warning(
        "%d streams on %d cores give PyTorch %d threads per pass; these wait for each other at "
        "every operation, which is many times slower when other processes are busy; set streams "
        "to %d to avoid it",
        options.streams,
        options.cores,
        threads,
        options.cores,
    )


def _builder(
    candidate: Candidate, network: Network, image_size: int, options: BackendOptions
) -> Build:
    """A function that builds one kind of backend, given the numbers of streams and threads."""
    device, precision = candidate.device, candidate.precision
    if candidate.name == "openvino":
        from model.backends.openvino import OpenVINOBackend  # an optional dependency
        from model.backends.openvino_graph import cached_graph

        cache = open_cache(options.cache_dir) if options.cache_dir else None
        graph = cached_graph(network(), image_size, cache)
        return lambda streams, threads: OpenVINOBackend(
            graph, precision, streams=streams, threads=threads, cache_dir=cache
        )
    if options.deterministic and device.type == "cuda":
        repeat_algorithms()
    module: nn.Module = cast(network(), precision)
    if candidate.name == "torch-compile-cudagraphs":
        keep_kernels(options.cache_dir)
        return lambda streams, threads: CompiledCudaBackend(
            module, device, precision, streams=streams, workers=options.cores
        )
    if candidate.name == "torch-cudagraphs":
        return lambda streams, threads: CudaBackend(module, device, precision, streams=streams)
    if device.type == "cpu":
        module = to_script(module, image_size)
    return lambda streams, threads: TorchBackend(
        module, device, precision, streams=streams, threads=threads
    )
