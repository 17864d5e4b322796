"""Building the backend of a candidate, with its number of streams."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from model.backends.base import Backend, BackendOptions, Build
from model.backends.cache import open_cache
from model.backends.compiled import CompiledCudaBackend, keep_kernels
from model.backends.cuda import CudaBackend
from model.backends.determinism import repeat_algorithms
from model.backends.streams import divide_cores
from model.backends.torch import TorchBackend, cast, fastest_precision, to_script
from model.metadata.quantisation import Quantisation

STREAMS = {"cuda": 2}  # by kind of device, for devices other than the CPU; default 1

logger = logging.getLogger(__name__)

Network = Callable[[], nn.Sequential]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A backend by name, with its device and precision.

    Attributes:
        quantisation: the layers to compute in integers, if the precision is `INT8`.
    """

    name: str
    device: torch.device
    precision: str
    quantisation: Quantisation | None = None

    @property
    def tolerances(self) -> tuple[float, float] | None:
        """The tolerances of the self-test, if they are not those of the precision."""
        found = self.quantisation
        return (found.tolerance, found.embedding_tolerance) if found else None

    def __str__(self) -> str:
        return f"{self.name} in {self.precision} on {self.device}"


def build_backend(
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
        from model.backends.openvino_int8 import quantise_graph

        cache = open_cache(options.cache_dir) if options.cache_dir else None
        graph, rest = cached_graph(network(), image_size, cache), precision
        if candidate.quantisation:
            graph = quantise_graph(graph, candidate.quantisation.layers)
            rest = fastest_precision(device)
        return lambda streams, threads: OpenVINOBackend(
            graph, precision, streams=streams, threads=threads, rest=rest, cache_dir=cache
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
