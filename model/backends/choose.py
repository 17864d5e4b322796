"""Which backend runs a network: by device, by what is installed, by what agrees and is fast."""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from model.backends.base import Backend
from model.backends.cuda import CudaBackend
from model.backends.torch import (
    TorchBackend,
    choose_device,
    fastest_precision,
    narrow,
    to_script,
)
from model.errors import ModelError
from model.preprocess import Pixels
from model.scores import Scores, softmax

# How far a probability may be from that of 32-bit PyTorch.
TOLERANCE = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 4e-2}
# Streams share nothing, and the threads of a pass wait for each other and for whatever else runs:
# measured alone, they must be this much faster to be worth it.
FEWER_STREAMS = 1.1
BUSY = 0.8  # of its time, at most, for a stream that shall keep pace
TRIALS = 2
TRIAL_SECONDS = 0.05

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendOptions:
    """What the caller wants of a backend.

    Attributes:
        backend: ``auto``, ``torch`` or ``openvino``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        precision: ``auto``, ``float32``, ``bfloat16``, ``float16``.
        cores: how many cores of the CPU to use.
        streams: how many batches to run side by side, where measurement is not to decide.
        serving: whether images are also received, decoded and answered on those cores.
        cache_dir: where compiled models are kept, so that the next start need not compile.
    """

    backend: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    cores: int = 1
    streams: int | None = None
    serving: bool = False
    cache_dir: Path | None = None


class Choice(NamedTuple):
    """A backend, and why it."""

    backend: Backend
    reason: str


Network = Callable[[], nn.Sequential]
Build = Callable[[int, int], Backend]


def choose_backend(
    network: Network,
    image_size: int,
    expected: Scores,
    options: BackendOptions,
    beside: Callable[[], float] | None = None,
) -> Choice:
    """The first backend, from the one asked for down to plain PyTorch, that agrees with it.

    Args:
        network: makes a network of its own for each: pixels ``(b, h, w, 3)`` of bytes to logits
            ``(b, classes)``, in 32 bits on the CPU; what comes first takes the bytes.
        image_size: pixels a side.
        expected: what 32-bit PyTorch says of `self_test_images`: probabilities ``(b, classes)``.
        beside: measures the seconds of a core that each image takes before and after the network,
            where the network does not have the cores for itself.

    Raises:
        ModelError: what is asked for cannot be had here, or nothing agrees.
    """
    device = choose_device(options.device)
    grounds = [_grounds(options, device)]
    for name, precision in _ladder(options, device):
        try:
            build = _builder(name, precision, network, image_size, device, options.cache_dir)
            backend = _divide_cores(build, image_size, device, options, beside)
            flaw = disagreement(backend, expected, image_size)
        except RuntimeError as error:
            flaw = str(error).partition("\n")[0]
        if flaw is None:
            return Choice(backend, "; ".join((*grounds, "agrees with 32-bit PyTorch")))
        logger.warning("backend %s in %s is not used: %s", name, precision, flaw)
        grounds.append(f"not {name} in {precision}: {flaw}")
    raise ModelError(f"no backend on {device} gives the answers of 32-bit PyTorch")


def self_test_images(image_size: int) -> Pixels:
    """Images ``(4, image_size, image_size, 3)`` on which backends are compared."""
    steps = np.linspace(0, 255, image_size * image_size * 3)
    slope = steps.reshape(image_size, image_size, 3)
    noise = np.random.default_rng(0).integers(0, 256, slope.shape)
    waves = 127.5 + 127.5 * np.sin(steps / 7).reshape(slope.shape)
    return np.stack((slope, slope[::-1, ::-1], noise, waves)).astype(np.uint8)


def probabilities(network: nn.Module, image_size: int) -> Scores:
    """Of `self_test_images`, by plain PyTorch: ``(4, classes)``."""
    with torch.inference_mode():
        return softmax(network(torch.from_numpy(self_test_images(image_size))).numpy())


def disagreement(backend: Backend, expected: Scores, image_size: int) -> str | None:
    """What is wrong with the answers of a backend, in the calling thread; ``None`` if nothing is.

    Every probability must be within `TOLERANCE`, and the best class the same, unless two are as
    near to each other as that.
    """
    backend.open()
    found = softmax(backend.logits(self_test_images(image_size)))
    tolerance = TOLERANCE[backend.precision]
    distance = np.abs(found - expected).max()
    if not distance <= tolerance:  # NaN is no agreement either
        return f"a probability is {distance:.2g} off, more than {tolerance:g}"
    best = found.argmax(1, keepdims=True)
    lost = expected.max(1) - np.take_along_axis(expected, best, 1)[:, 0]
    if lost.max() > tolerance:
        return "it prefers another class"
    return None


def _grounds(options: BackendOptions, device: torch.device) -> str:
    """Why the search begins where it does."""
    if options.backend != "auto":
        return f"{options.backend} was asked for"
    if device.type == "cpu" and not _openvino_is_installed():
        return "openvino is not installed"
    return f"first choice on {device.type}"


def _openvino_is_installed() -> bool:
    return find_spec("openvino") is not None


def _ladder(options: BackendOptions, device: torch.device) -> Iterator[tuple[str, str]]:
    """Names and precisions, the best first."""
    precision = fastest_precision(device) if options.precision == "auto" else options.precision
    precisions = dict.fromkeys((precision, "float32"))
    for name in _names(options, device):
        yield from ((name, precision) for precision in precisions)


def _names(options: BackendOptions, device: torch.device) -> tuple[str, ...]:
    installed = _openvino_is_installed()
    if options.backend == "openvino":
        if device.type != "cpu":
            raise ModelError(f"backend openvino runs on cpu, not on {device}")
        if not installed:
            raise ModelError(
                "backend openvino is not installed: pip install 'xcit-serve[openvino]'"
            )
    if device.type == "cuda":
        return "torch-cudagraphs", "torch"
    if device.type == "cpu" and installed and options.backend != "torch":
        return "openvino", "torch"
    return ("torch",)


def _builder(
    name: str,
    precision: str,
    network: Network,
    image_size: int,
    device: torch.device,
    cache_dir: Path | None,
) -> Build:
    """Makes backends of one kind, for so many streams of so many threads."""
    if name == "openvino":
        from model.backends.openvino import OpenVINOBackend  # an optional dependency
        from model.backends.openvino_graph import kept_graph, make_cache

        cache = make_cache(cache_dir) if cache_dir else None
        graph = kept_graph(network(), image_size, cache)
        return lambda streams, threads: OpenVINOBackend(
            graph, precision, streams=streams, threads=threads, cache_dir=cache
        )
    module: nn.Module = narrow(network(), precision)
    if name == "torch-cudagraphs":
        return lambda streams, threads: CudaBackend(module, device, precision, streams=streams)
    if device.type == "cpu":
        module = to_script(module, image_size)
    return lambda streams, threads: TorchBackend(
        module, device, precision, streams=streams, threads=threads
    )


def _divide_cores(
    build: Build,
    image_size: int,
    device: torch.device,
    options: BackendOptions,
    beside: Callable[[], float] | None,
) -> Backend:
    """The backend with as many streams as asked for, or as measurements speak for.

    On a CPU these are no more than keep pace with what else an image takes: fewer streams run
    fuller batches, and leave cores to the rest. Where all cores are needed, they may work together.
    """
    cores = options.cores
    if options.streams or device.type != "cpu" or cores == 1:
        streams = options.streams or (2 if device.type == "cuda" else 1)
        return build(streams, max(1, cores // streams))
    batch = self_test_images(image_size)  # as many as will wait for a stream under load
    if beside:
        single, rate, seconds = build(1, 1), 0.0, math.inf
        for _ in range(TRIALS):  # in turn, as a machine's speed drifts
            rate = max(rate, throughput(single, batch, TRIAL_SECONDS))
            seconds = min(seconds, beside())
        needed = math.ceil(cores / (1 + rate * seconds) / BUSY)
        logger.info(
            "1 stream of 1 thread: %.0f images/s; with %.1f ms beside it, %d of %d cores needed",
            rate,
            1e3 * seconds,
            min(needed, cores),
            cores,
        )
        if needed < cores:
            return single if needed == 1 else build(needed, 1)
    counts = [count for count in dict.fromkeys((cores, cores // 2, cores // 4)) if count]
    backends = [build(streams, cores // streams) for streams in counts]
    rates = [0.0 for _ in backends]
    for _ in range(TRIALS):
        found = [throughput(backend, batch, TRIAL_SECONDS) for backend in backends]
        rates = [*map(max, rates, found)]
    for backend, rate in zip(backends, rates, strict=True):
        logger.info(
            "%d streams of %d threads: %.0f images/s", backend.streams, backend.threads, rate
        )
    rates[0] *= FEWER_STREAMS
    return backends[rates.index(max(rates))]


def throughput(backend: Backend, pixels: Pixels, seconds: float) -> float:
    """Images a second over all streams, each running the batch ``pixels`` for so many seconds.

    They begin together, after the first pass of each, which may be a long one.
    """
    warm = threading.Barrier(backend.streams)

    def run(_: int) -> float:
        try:
            backend.logits(pixels)
        finally:
            warm.wait()
        begun, passes = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - begun) < seconds or not passes:
            backend.logits(pixels)
            passes += 1
        return len(pixels) * passes / elapsed

    with ThreadPoolExecutor(backend.streams, initializer=backend.open) as pool:
        return sum(pool.map(run, range(backend.streams)))
