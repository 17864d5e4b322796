"""Dividing a CPU's cores into inference threads (``streams``), each with its own CPU threads."""

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from model.backends.agreement import self_test_images
from model.backends.base import Backend, BackendOptions, Build
from model.backends.timing import Effort, steady_seconds
from model.images.preprocess import Pixels

# Streams share nothing, while the threads of a pass wait for each other and for other processes.
# Threads must be this much faster, measured on an idle machine, to be used.
FEWER_STREAMS = 1.1
BUSY = 0.8  # the highest load of a stream that is considered to keep pace
TRIAL_SECONDS = 0.05
EFFORT = Effort(rounds=3, limit=0.5)

logger = logging.getLogger(__name__)


def divide_cores(
    build: Build,
    image_size: int,
    options: BackendOptions,
    overhead: Callable[[], float] | None,
    *,
    single_threaded: bool,
) -> Backend:
    """The backend, with the number of streams on the cores of a CPU that measures best.

    It has just enough streams to keep pace with the rest of the work per image: fewer streams run
    fuller batches and leave cores for decoding. If all cores are needed, streams and threads are
    compared by measurement.

    Args:
        overhead: measures the CPU seconds that an image takes outside the network, if that work
            runs on the same cores.
        single_threaded: whether each pass must use a single thread.
    """
    cores = options.cores
    if cores == 1:
        return build(1, 1)
    batch = self_test_images(image_size)  # about as many images as wait for a stream under load
    if overhead:
        single = build(1, 1)
        needed = streams_to_keep_pace(single, batch, cores, overhead)
        if needed < cores:
            return single if needed == 1 else build(needed, 1)
    if single_threaded:
        return build(cores, 1)
    counts = [count for count in dict.fromkeys((cores, cores // 2, cores // 4)) if count]
    return fastest([build(streams, cores // streams) for streams in counts], batch)


def streams_to_keep_pace(
    single: Backend, batch: Pixels, cores: int, overhead: Callable[[], float]
) -> int:
    """How many of ``cores`` the network needs so that the other cores have no more work than it
    has.

    Args:
        single: the backend with one stream of one thread.
        overhead: see `divide_cores`.
    """

    def measure(_: int) -> dict[str, float]:  # alternate, because a machine's speed drifts
        rate = throughput(single, batch, TRIAL_SECONDS)
        return {"network": 1 / rate, "overhead": overhead()}

    found = steady_seconds(measure, EFFORT)
    needed = math.ceil(cores * found["network"] / (found["network"] + found["overhead"]) / BUSY)
    logger.info(
        "1 stream of 1 thread: %.0f images/s; %.1f ms per image outside it: needs %d of %d cores",
        1 / found["network"],
        1e3 * found["overhead"],
        min(needed, cores),
        cores,
    )
    return needed


def fastest(backends: Sequence[Backend], batch: Pixels) -> Backend:
    """The backend with the highest throughput; the first unless another is `FEWER_STREAMS` times as
    fast.
    """

    def measure(_: int) -> dict[int, float]:
        rates = [throughput(backend, batch, TRIAL_SECONDS) for backend in backends]
        return {number: 1 / rate for number, rate in enumerate(rates)}

    rates = [1 / seconds for seconds in steady_seconds(measure, EFFORT).values()]
    for backend, rate in zip(backends, rates, strict=True):
        logger.info(
            "%d streams of %d threads: %.0f images/s", backend.streams, backend.threads, rate
        )
    rates[0] *= FEWER_STREAMS
    return backends[rates.index(max(rates))]


def throughput(backend: Backend, pixels: Pixels, seconds: float) -> float:
    """Images per second over all streams, each running the batch ``pixels`` for ``seconds``.

    The streams start together, each after a first pass, which may be slow.
    """
    warm = threading.Barrier(backend.streams)

    def run(_: int) -> float:
        try:
            backend.open()
            backend.logits(pixels)
        finally:
            warm.wait()
        begun, passes = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - begun) < seconds or not passes:
            backend.logits(pixels)
            passes += 1
        return len(pixels) * passes / elapsed

    with ThreadPoolExecutor(backend.streams) as pool:
        return sum(pool.map(run, range(backend.streams)))
