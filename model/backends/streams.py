"""How many streams a backend runs on the cores of a CPU, and with how many threads each."""

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

# Streams share nothing, and the threads of a pass wait for each other and for whatever else runs:
# measured alone, they must be this much faster to be worth it.
FEWER_STREAMS = 1.1
BUSY = 0.8  # the largest share of its time that a stream may be busy if it is to keep pace
TRIAL_SECONDS = 0.05
EFFORT = Effort(rounds=3, limit=0.5)

logger = logging.getLogger(__name__)


def divide_cores(
    build: Build,
    image_size: int,
    options: BackendOptions,
    beside: Callable[[], float] | None,
    *,
    single_threaded: bool,
) -> Backend:
    """The backend with as many streams on the cores of a CPU as measurements speak for.

    They are no more than keep pace with what else an image takes: fewer streams run fuller
    batches, and leave cores to the rest. Where all cores are needed, they may work together.

    Args:
        beside: measures the seconds of a core that an image takes before and after the network,
            where the network does not have the cores for itself.
        single_threaded: whether threads may not share a pass.
    """
    cores = options.cores
    if cores == 1:
        return build(1, 1)
    batch = self_test_images(image_size)  # as many as will wait for a stream under load
    if beside:
        single = build(1, 1)
        needed = streams_to_keep_pace(single, batch, cores, beside)
        if needed < cores:
            return single if needed == 1 else build(needed, 1)
    if single_threaded:
        return build(cores, 1)
    counts = [count for count in dict.fromkeys((cores, cores // 2, cores // 4)) if count]
    return fastest([build(streams, cores // streams) for streams in counts], batch)


def streams_to_keep_pace(
    single: Backend, batch: Pixels, cores: int, beside: Callable[[], float]
) -> int:
    """How many of ``cores`` the network needs so that the others have no more work than it has.

    Args:
        single: the backend as one stream of one thread.
        beside: see `divide_cores`.
    """

    def measure(_: int) -> dict[str, float]:  # in turn, as a machine's speed drifts
        rate = throughput(single, batch, TRIAL_SECONDS)
        return {"network": 1 / rate, "beside": beside()}

    found = steady_seconds(measure, EFFORT)
    needed = math.ceil(cores * found["network"] / (found["network"] + found["beside"]) / BUSY)
    logger.info(
        "1 stream of 1 thread: %.0f images/s; with %.1f ms beside it, %d of %d cores needed",
        1 / found["network"],
        1e3 * found["beside"],
        min(needed, cores),
        cores,
    )
    return needed


def fastest(backends: Sequence[Backend], batch: Pixels) -> Backend:
    """The one of highest throughput; the first unless another is `FEWER_STREAMS` times as fast."""

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
    """Images a second over all streams, each running the batch ``pixels`` for so many seconds.

    They begin together, after the first pass of each, which may be a long one.
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
