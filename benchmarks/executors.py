"""The bare model on every backend, beside what the processor can do at most.

    python -m benchmarks.executors model/checkpoints/xcit-cifar10.safetensors
    python -m benchmarks.executors model/checkpoints/xcit-cifar10.safetensors --device cuda

Images a second over all streams, by batch size, without preprocessing or server; backends in turn,
the best of a few rounds. The ceiling is what a large matrix product reaches on all cores, or on the
GPU, in the same run, and an image's share of it the multiplications of the plain network, two
operations each.
"""

import argparse
import time
from collections.abc import Sequence
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
from model.backends.torch import TorchBackend, narrow, to_script
from model.checkpoint import Checkpoint, read_checkpoint
from model.families import FAMILIES
from model.simplify import plain

BATCH_SIZES = {"cpu": (1, 2, 4, 8, 16), "cuda": (1, 4, 16, 64, 128, 256)}
PRECISIONS = ("float32", "bfloat16")
ROUNDS = 3
SECONDS = 0.5  # of passes, for one figure
KERNELS = Path("~/.cache/xcit-serve")  # where the service keeps compiled ones by default
CEILING_SIDE = {"cpu": 2048, "cuda": 8192}


def contenders_on_cpu(checkpoint: Checkpoint, cores: int) -> dict[str, Backend]:
    """Every backend in every precision, in single-threaded streams and as one pass on all cores."""
    from model.backends.openvino import OpenVINOBackend  # an optional dependency
    from model.backends.openvino_graph import to_graph

    preprocess = checkpoint.spec.preprocess
    simplify = FAMILIES[checkpoint.spec.family].simplify
    graph = to_graph(simplify(checkpoint.build(), preprocess), preprocess.image_size)
    plainly = plain(checkpoint.build(), preprocess)
    as_trained = TorchBackend(plainly, torch.device("cpu"), "float32", streams=cores)
    found: dict[str, Backend] = {"torch, eager, as trained": as_trained}
    for precision in PRECISIONS:
        for streams, threads in ((cores, 1), (1, cores)):
            split = f"{precision}, {streams} x {threads}"
            found[f"openvino, {split}"] = OpenVINOBackend(
                graph, precision, streams=streams, threads=threads
            )
            network = narrow(simplify(checkpoint.build(), preprocess), precision)
            script = to_script(network, preprocess.image_size)
            found[f"torch, {split}"] = TorchBackend(
                script, torch.device("cpu"), precision, streams=streams, threads=threads
            )
    return found


def contenders_on_gpu(checkpoint: Checkpoint, device: torch.device) -> dict[str, Backend]:
    """PyTorch with and without CUDA graphs, in every precision, on one stream and on two.

    The network is compiled in one precision only: each batch size takes about 20 s to compile.
    """
    keep_kernels(KERNELS)
    preprocess = checkpoint.spec.preprocess
    simplify = FAMILIES[checkpoint.spec.family].simplify
    kinds = {"torch": TorchBackend, "cudagraphs": CudaBackend}
    compiled = CompiledCudaBackend(
        narrow(simplify(checkpoint.build(), preprocess), "bfloat16"),
        device,
        "bfloat16",
        streams=2,
        workers=torch.get_num_threads(),
    )
    return {"compiled, cudagraphs, bfloat16, 2 streams": compiled} | {
        f"{name}, {precision}, {streams} streams": kind(
            narrow(simplify(checkpoint.build(), preprocess), precision),
            device,
            precision,
            streams=streams,
        )
        for name, kind in kinds.items()
        for precision in PRECISIONS
        for streams in (1, 2)
    }


def ceiling(dtype: torch.dtype, device: torch.device, cores: int) -> float:
    """GFLOP/s of a large matrix product on the whole device, the best of many."""
    torch.set_num_threads(cores)
    side = CEILING_SIDE[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(20):
        begun = time.perf_counter()
        torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begun)
    return 2 * side**3 / best / 1e9


def gflop(checkpoint: Checkpoint) -> float:
    """Operations of one image, in billions."""
    size = checkpoint.spec.preprocess.image_size
    network = plain(checkpoint.build(), checkpoint.spec.preprocess)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, size, size, 3, dtype=torch.uint8))
    return float(counter.get_total_flops()) / 1e9


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.executors", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--device", type=torch.device, default="cpu", help="cpu or cuda [cpu]")
    args = parser.parse_args(argv)
    device, cores = args.device, torch.get_num_threads()
    checkpoint = read_checkpoint(args.checkpoint)
    size, work = checkpoint.spec.preprocess.image_size, gflop(checkpoint)
    if device.type == "cuda":
        contenders = contenders_on_gpu(checkpoint, device)
    else:
        contenders = contenders_on_cpu(checkpoint, cores)
    best = {name: dict.fromkeys(BATCH_SIZES[device.type], 0.0) for name in contenders}
    chance = np.random.default_rng(0)
    most = dict.fromkeys((torch.float32, torch.bfloat16), 0.0)
    for _ in range(ROUNDS):
        most = {dtype: max(rate, ceiling(dtype, device, cores)) for dtype, rate in most.items()}
        for batch in BATCH_SIZES[device.type]:
            pixels = chance.integers(0, 256, (batch, size, size, 3), np.uint8)
            for name, backend in contenders.items():
                rate = throughput(backend, pixels, SECONDS)
                best[name][batch] = max(best[name][batch], rate)
    rows = []
    for name, rates in best.items():
        top = most[torch.bfloat16 if contenders[name].precision == "bfloat16" else torch.float32]
        share = max(rates.values()) * work / top
        rows.append([name, *(f"{rate:.0f}" for rate in rates.values()), f"{share:.2f}"])
    head = ("images/s by batch size", *map(str, BATCH_SIZES[device.type]), "best over ceiling")
    what = (
        f"{args.checkpoint.stem}: {work:.2f} GFLOP an image. A matrix product reaches "
        f"{most[torch.float32]:.0f} GFLOP/s in 32 bits and {most[torch.bfloat16]:.0f} in bfloat16."
    )
    print(provenance(), what, table(head, rows), sep="\n\n")


if __name__ == "__main__":
    main()
