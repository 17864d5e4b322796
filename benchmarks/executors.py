"""Inference without a server on every backend, compared with the limit of the processor.

    python -m benchmarks.executors model/checkpoints/xcit-cifar10.safetensors
    python -m benchmarks.executors model/checkpoints/xcit-cifar10.safetensors --device cuda

Images per second over all streams, by batch size, without preprocessing; backends in turn, the best
of several rounds. The ceiling is the throughput of a large matrix product on all cores, or on the
GPU, in the same run. The share of it counts the multiplications of the unmodified network, two
operations each.

What cannot be measured is reported on stderr and left out of the table. An interrupt ends the
measurement early; the table then has the results so far.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import provenance
from benchmarks.report import table
from model.backends.base import Backend
from model.backends.compiled import CompiledCudaBackend, keep_kernels
from model.backends.cuda import CudaBackend
from model.backends.streams import throughput
from model.backends.torch import TorchBackend, cast, to_script
from model.checkpoint import Checkpoint, read_checkpoint
from model.errors import ModelError
from model.families.registry import FAMILIES
from model.families.simplify import baseline

BATCH_SIZES = {"cpu": (1, 2, 4, 8, 16), "cuda": (1, 4, 16, 64, 128, 256)}
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
KERNELS = Path("~/.cache/xcit-serve")  # the service's default cache of compiled kernels
CEILING_SIDE = {"cpu": 2048, "cuda": 8192}
MOST_PRODUCTS = 20  # matrix products per round
ON_A_GPU = {"torch": TorchBackend, "cudagraphs": CudaBackend}

Build = Callable[[], Backend]


@dataclass(slots=True)
class Measured:
    """The best rates so far.

    Attributes:
        rates: images per second, by contender and batch size.
        ceilings: GFLOP/s of a large matrix product, by precision.
        failures: measurements that failed, with the reasons.
    """

    rates: dict[str, dict[int, float]] = field(default_factory=dict)
    ceilings: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PRECISIONS, 0.0))
    failures: list[str] = field(default_factory=list)

    def note(self, name: str, size: int, rate: float) -> None:
        rates = self.rates.setdefault(name, {})
        rates[size] = max(rate, rates.get(size, 0.0))

    def fail(self, what: str, error: Exception) -> None:
        self.failures.append(what)
        print(f"{what}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)


def contenders_on_cpu(checkpoint: Checkpoint, cores: int) -> dict[str, Build]:
    """Every backend in every precision, as single-threaded streams and as one pass on all cores."""
    cpu, preprocess = torch.device("cpu"), checkpoint.spec.preprocess
    simplify = FAMILIES[checkpoint.spec.family].simplify

    def on_openvino(precision: str, streams: int, threads: int) -> Backend:
        from model.backends.openvino import OpenVINOBackend  # an optional dependency
        from model.backends.openvino_graph import to_graph

        graph = to_graph(simplify(checkpoint.build(), preprocess), preprocess.image_size)
        return OpenVINOBackend(graph, precision, streams=streams, threads=threads)

    def on_torch(precision: str, streams: int, threads: int) -> Backend:
        network = cast(simplify(checkpoint.build(), preprocess), precision)
        script = to_script(network, preprocess.image_size)
        return TorchBackend(script, cpu, precision, streams=streams, threads=threads)

    def as_trained() -> Backend:
        network = baseline(checkpoint.build(), preprocess)
        return TorchBackend(network, cpu, "float32", streams=cores)

    kinds = {"openvino": on_openvino} if find_spec("openvino") else {}
    return {"torch, eager, as trained": as_trained} | {
        f"{name}, {precision}, {streams} x {threads}": partial(build, precision, streams, threads)
        for precision in PRECISIONS
        for streams, threads in ((cores, 1), (1, cores))
        for name, build in (kinds | {"torch": on_torch}).items()
    }


def contenders_on_gpu(checkpoint: Checkpoint, device: torch.device) -> dict[str, Build]:
    """The backends of a GPU, in every precision, with one stream and with two.

    The network is compiled in one precision only, because each batch size takes about 20 s.
    """
    preprocess = checkpoint.spec.preprocess
    simplify = FAMILIES[checkpoint.spec.family].simplify

    def build(
        kind: type[TorchBackend] | type[CudaBackend], precision: str, streams: int
    ) -> Backend:
        network = cast(simplify(checkpoint.build(), preprocess), precision)
        return kind(network, device, precision, streams=streams)

    def compiled() -> Backend:
        keep_kernels(KERNELS)
        network = cast(simplify(checkpoint.build(), preprocess), "bfloat16")
        workers = torch.get_num_threads()
        return CompiledCudaBackend(network, device, "bfloat16", streams=2, workers=workers)

    return {"compiled, cudagraphs, bfloat16, 2 streams": compiled} | {
        f"{name}, {precision}, {streams} streams": partial(build, kind, precision, streams)
        for name, kind in ON_A_GPU.items()
        for precision in PRECISIONS
        for streams in (1, 2)
    }


def build_all(contenders: Mapping[str, Build], found: Measured) -> dict[str, Backend]:
    """The backends; those that cannot be built are recorded as failures."""
    backends: dict[str, Backend] = {}
    for name, build in contenders.items():
        try:
            backends[name] = build()
        except (ModelError, RuntimeError) as error:
            found.fail(name, error)
    return backends


def measure_round(
    backends: Mapping[str, Backend],
    sizes: Sequence[int],
    side: int,
    seconds: float,
    found: Measured,
) -> None:
    """Measure every backend at every batch size once, in turn.

    Args:
        side: width of an image, in pixels.
        seconds: duration of the passes for one figure.
    """
    chance = np.random.default_rng(0)
    for size in sizes:
        pixels = chance.integers(0, 256, (size, side, side, 3), np.uint8)
        for name, backend in backends.items():
            what = f"{name}, batch {size}"
            if what in found.failures:
                continue
            try:
                found.note(name, size, throughput(backend, pixels, seconds))
            except (ModelError, RuntimeError) as error:
                found.fail(what, error)


def ceiling(dtype: torch.dtype, device: torch.device, cores: int, seconds: float) -> float:
    """GFLOP/s of a large matrix product on the whole device, the best within ``seconds``."""
    torch.set_num_threads(cores)
    side = CEILING_SIDE[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    times: list[float] = []
    while len(times) < MOST_PRODUCTS and sum(times) < seconds:
        begun = time.perf_counter()
        torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begun)
    return 2 * side**3 / min(times) / 1e9


def gflop(checkpoint: Checkpoint) -> float:
    """Operations of one image, in billions."""
    size = checkpoint.spec.preprocess.image_size
    network = baseline(checkpoint.build(), checkpoint.spec.preprocess)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, size, size, 3, dtype=torch.uint8))
    return float(counter.get_total_flops()) / 1e9


def report(name: str, work: float, sizes: Sequence[int], found: Measured) -> str:
    """The results as Markdown; ``work`` is in GFLOP per image."""
    what = (
        f"{name}: {work:.2f} GFLOP per image. A matrix product reaches "
        f"{found.ceilings['float32']:.0f} GFLOP/s in 32 bits and "
        f"{found.ceilings['bfloat16']:.0f} in bfloat16."
    )
    rows = []
    for contender, rates in found.rates.items():
        top = found.ceilings["bfloat16" if "bfloat16" in contender else "float32"]
        figures = (f"{rates[size]:.0f}" if size in rates else "-" for size in sizes)
        rows.append([contender, *figures, f"{max(rates.values()) * work / top:.2f}"])
    head = ("images/s by batch size", *map(str, sizes), "best over ceiling")
    missing = [f"Not measured: {failure}" for failure in found.failures]
    return "\n\n".join((provenance(), what, table(head, rows), *missing))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.executors",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--device", type=torch.device, default="cpu", help="cpu or cuda [cpu]")
    parser.add_argument(
        "--only",
        nargs="*",
        default=[""],
        metavar="TEXT",
        help="prefixes of the contenders to measure",
    )
    parser.add_argument("--batch-sizes", type=int, nargs="*", metavar="SIZE", help="images")
    parser.add_argument(
        "--rounds", type=int, default=3, help="rounds, of which the best counts [3]"
    )
    parser.add_argument(
        "--seconds", type=float, default=0.5, help="duration of the passes for a figure [0.5]"
    )
    args = parser.parse_args(argv)
    device, cores = args.device, torch.get_num_threads()
    checkpoint = read_checkpoint(args.checkpoint)
    on_gpu = device.type == "cuda"
    everybody = (
        contenders_on_gpu(checkpoint, device) if on_gpu else contenders_on_cpu(checkpoint, cores)
    )
    chosen = {name: build for name, build in everybody.items() if name.startswith((*args.only,))}
    if not chosen:
        parser.error(f"--only matches none of: {'; '.join(everybody)}")
    sizes = args.batch_sizes or BATCH_SIZES[device.type]
    work, found = gflop(checkpoint), Measured()
    try:
        backends = build_all(chosen, found)
        for _ in range(args.rounds):
            for precision, dtype in PRECISIONS.items():
                rate = ceiling(dtype, device, cores, args.seconds)
                found.ceilings[precision] = max(rate, found.ceilings[precision])
            side = checkpoint.spec.preprocess.image_size
            measure_round(backends, sizes, side, args.seconds, found)
    finally:
        print(report(args.checkpoint.stem, work, sizes, found), flush=True)
    if found.failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
