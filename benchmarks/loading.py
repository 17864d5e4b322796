"""The cost of loading a published checkpoint: time, and memory beyond the interpreter's.

    python -m benchmarks.loading --out benchmarks/results

Weights are mapped from their file and networks are built without memory, so the peak should be the
weights once: at most 1.2 times their size. Each checkpoint is loaded, checked and run once in a new
process; memory is the growth of resident memory as counted by the kernel, mapped file pages
included. The files are new and in the page cache, so time is CPU time.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.machine import provenance
from model.checkpoint import read_checkpoint, write_checkpoint
from model.families.variants import VARIANTS
from model.families.xcit_published import PublishedXCiT

SIZES = ("small_24", "large_24")
MIB = 2**20
TARGET = 1.2


@dataclass(frozen=True, slots=True)
class Loading:
    """Seconds and peak bytes until the network is built, and peak bytes with one forward pass."""

    seconds: float
    bytes: int
    bytes_with_pass: int


def save_official(path: Path, state: dict[str, Tensor]) -> None:
    torch.save({"model": state}, path)


def save_timm(path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, path)


def save_own(path: Path, state: dict[str, Tensor]) -> None:
    timm = path.with_suffix(".timm")
    save_file(state, timm)
    write_checkpoint(path, read_checkpoint(timm).spec, state)
    timm.unlink()


FORMS: dict[str, tuple[str, Callable[[Path, dict[str, Tensor]], None]]] = {
    "pickle": (".pth", save_official),
    "safetensors": (".safetensors", save_timm),
    "self-describing": (".self.safetensors", save_own),
}


def load(path: Path) -> Loading:
    """Load one file in this process, which must not have done anything else before."""
    torch.set_num_threads(1)
    with torch.inference_mode():
        torch.nn.Linear(64, 64)(torch.zeros(1, 64))  # allocates the libraries' scratch space
    before = resident("VmRSS")
    start = time.perf_counter()
    checkpoint = read_checkpoint(path)
    network = checkpoint.build()
    seconds = time.perf_counter() - start
    peak = resident("VmHWM")
    size = checkpoint.spec.preprocess.image_size
    with torch.inference_mode():
        network(torch.zeros(1, 3, size, size))
    return Loading(seconds, peak - before, resident("VmHWM") - before)


def resident(name: str) -> int:
    """Resident bytes of this process: the current ones (``VmRSS``) or the peak (``VmHWM``)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loading", description=__doc__)
    parser.add_argument("--out", type=Path, help="directory for loading.md")
    args = parser.parse_args(argv)
    rows = [
        "| model | form | weights MiB | seconds | peak over weights | with a forward pass |",
        "|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            name = f"xcit_{size}_p16_224"
            hyperparameters = VARIANTS[f"{name}.fb_in1k"].hyperparameters
            state = PublishedXCiT(**hyperparameters).state_dict()  # type: ignore[arg-type]
            weights = sum(tensor.nbytes for tensor in state.values())
            for form, (suffix, save) in FORMS.items():
                path = Path(folder) / f"{name}{suffix}"
                save(path, state)
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                    found = process.submit(load, path).result()
                path.unlink()
                rows.append(
                    f"| {name} | {form} | {weights / MIB:.0f} | {found.seconds:.2f} "
                    f"| {found.bytes / weights:.2f} | {found.bytes_with_pass / weights:.2f} |"
                )
                print(rows[-1], flush=True)
    table = "\n".join(rows)
    text = f"# Loading\n\n{provenance()}\n\nTarget: a peak of at most {TARGET}.\n\n{table}\n"
    if args.out:
        (args.out / "loading.md").write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
