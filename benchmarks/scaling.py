"""The cost of more tokens: a forward pass of XCiT and of a plain ViT by resolution.

    python -m benchmarks.scaling --out benchmarks/results

XCiT attends between channels, so time and memory should grow linearly with the number of tokens n;
a ViT of the same width and depth attends between tokens, so they should approach n squared.

Time is the minimum CPU time of several passes on one thread. Memory is the growth of the peak
resident memory of a new process, as counted by the kernel (``VmHWM``): a computed figure, or that
of the allocator, would leave out the scratch space of libraries.
"""

import argparse
import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.machine import provenance
from benchmarks.vit import ViT
from model.families.xcit import XCiT

PATCH = 16
GRIDS = (7, 10, 14, 20, 28, 40, 56, 80)  # patches per side: 112 to 1280 pixels
SHAPE = {"patch_size": PATCH, "num_classes": 1000, "dim": 128, "depth": 12, "heads": 4}
SECONDS = 2.0  # of passes per point
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Point:
    """A model at one resolution: CPU seconds and bytes of a forward pass of one image."""

    tokens: int
    seconds: float
    bytes: int


def build_xcit(grid: int) -> nn.Module:
    return XCiT(**SHAPE, image_size=PATCH * grid, cls_depth=2, dim_head=32, mlp_dim=512).eval()


def build_vit(grid: int) -> nn.Module:
    return ViT(**SHAPE, image_size=PATCH * grid, mlp_dim=512).eval()


MODELS: dict[str, Callable[[int], nn.Module]] = {"XCiT": build_xcit, "ViT": build_vit}


def measure(name: str) -> list[Point]:
    # Map each tensor separately, so that freed memory is returned and heap holes are not measured.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(64 * 1024)
    context = get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as fresh_processes:
        peaks = list(fresh_processes.map(peak_bytes, [name] * len(GRIDS), GRIDS))
    times = [cpu_seconds(name, grid) for grid in GRIDS]
    return [
        Point(grid**2, seconds, peak)
        for grid, seconds, peak in zip(GRIDS, times, peaks, strict=True)
    ]


@torch.inference_mode()
def cpu_seconds(name: str, grid: int) -> float:
    """The fastest of the passes that fit in `SECONDS`, after a warm-up pass."""
    torch.set_num_threads(1)
    network, image = MODELS[name](grid), torch.randn(1, 3, PATCH * grid, PATCH * grid)
    network(image)
    times: list[float] = []
    while sum(times) < SECONDS:
        begun = time.thread_time()
        network(image)
        times.append(time.thread_time() - begun)
    return min(times)


@torch.inference_mode()
def peak_bytes(name: str, grid: int) -> int:
    """The peak of resident memory that a pass adds in this process."""
    torch.set_num_threads(1)
    MODELS[name](2)(torch.randn(1, 3, 2 * PATCH, 2 * PATCH))  # lets libraries load and allocate
    network, image = MODELS[name](grid), torch.randn(1, 3, PATCH * grid, PATCH * grid)
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = memory("VmHWM")
    network(image)
    return memory("VmHWM") - before


def memory(field: str) -> int:
    """A field of this process's memory, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return 1024 * int(value.split()[0])
    raise KeyError(field)


def exponent(points: Sequence[Point], quantity: str) -> float:
    """The slope of ``log quantity`` over ``log tokens``, fitted to the upper half."""
    upper = points[len(points) // 2 :]
    x = torch.tensor([math.log(point.tokens) for point in upper])
    y = torch.tensor([math.log(getattr(point, quantity)) for point in upper])
    return float(torch.cov(torch.stack((x, y)))[0, 1] / x.var())


def markdown(results: dict[str, list[Point]]) -> str:
    names = list(results)
    head = ["pixels", "tokens", *(f"{name} ms" for name in names), *(f"{n} MiB" for n in names)]
    rows = [head, ["---:"] * len(head)]
    for points in zip(*results.values(), strict=True):
        tokens = points[0].tokens
        times = [f"{1e3 * point.seconds:,.1f}" for point in points]
        peaks = [f"{point.bytes / MIB:,.1f}" for point in points]
        rows.append([f"{PATCH * math.isqrt(tokens)}", f"{tokens:,}", *times, *peaks])
    slopes = [
        f"n^{exponent(points, quantity):.2f}"
        for quantity in ("seconds", "bytes")
        for points in results.values()
    ]
    rows.append(["upper half", "grows like", *slopes])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def plot(path: Path, results: dict[str, list[Point]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    scales: dict[str, Any] = {"CPU time, ms": ("seconds", 1e3), "memory, MiB": ("bytes", 1 / MIB)}
    for axes, (title, (quantity, scale)) in zip(figure.subplots(1, 2), scales.items(), strict=True):
        for name, points in results.items():
            values = [scale * getattr(point, quantity) for point in points]
            label = f"{name}, $n^{{{exponent(points, quantity):.2f}}}$"
            axes.loglog([point.tokens for point in points], values, marker="o", label=label)
        axes.set(xlabel="tokens n", title=f"forward pass: {title}")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args(argv)
    results = {name: measure(name) for name in MODELS}
    table = markdown(results)
    print(table)
    args.out.mkdir(parents=True, exist_ok=True)
    plot(args.out / "scaling.png", results)
    (args.out / "scaling.md").write_text(TEXT.format(provenance=provenance(), table=table))


TEXT = """# Cost against resolution

{provenance}

One image, one thread, fp32, random weights; patch 16, dim 128, depth 12, 4 heads, MLP 512. XCiT is
`model.families.xcit`; the ViT is `benchmarks/vit.py`, with softmax attention written out (no fused
kernel). Time: least CPU time of a pass. Memory: growth of the peak resident memory of a new
process in a pass. The last row is the slope of a line through the logarithms of the upper half.

{table}

![Cost against tokens](scaling.png)
"""


if __name__ == "__main__":
    main()
