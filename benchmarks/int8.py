"""Speed of int8 next to float32 and bfloat16, with the instructions of several processors.

    python -m benchmarks.int8 --data cifar10-jpeg.tar.xz

Measures the bundled checkpoint and random weights of two widths, each on one core, in turn, at the
best batch size. ``ONEDNN_MAX_CPU_ISA`` limits the instructions to those of older processors. With
``--data``, an image folder or tar with train/ and test/, also the accuracy of the bundled
checkpoint on the test images, calibrated on images for training.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.checkpoints import HEADS, write_random_checkpoint
from benchmarks.machine import provenance
from benchmarks.report import table
from model.backends.agreement import self_test_images
from model.backends.base import BackendOptions
from model.backends.openvino import OpenVINOBackend
from model.backends.openvino_graph import to_graph
from model.backends.openvino_int8 import quantise_graph
from model.backends.openvino_runtime import openvino
from model.backends.timing import Effort
from model.checkpoint import BUNDLED_CHECKPOINT, Checkpoint, read_checkpoint, write_quantised
from model.evaluation.evaluate import evaluate
from model.families.registry import FAMILIES
from model.inference.classifier import load_classifier
from model.metadata.quantisation import MAX_EMBEDDING_TOLERANCE, MAX_TOLERANCE, Quantisation
from model.quantisation.calibrate import find_largest_inputs
from model.quantisation.quantise import quantise
from model.quantisation.speed import SIZES, linear_share, rates_by_size

# Limits of oneDNN to the instructions of a processor, and the precision of layers not in int8.
INSTRUCTIONS = {
    "AMX": ("DEFAULT", "bfloat16"),
    "AVX-512 with VNNI": ("AVX512_CORE_VNNI", "float32"),
    "AVX2 with VNNI": ("AVX2_VNNI", "float32"),
}
EFFORT = Effort(rounds=9, seconds=5.0, limit=30.0)
Rates = Mapping[str, Mapping[str, float]]  # images per second by precision and batch size


def graph_of(checkpoint: Checkpoint) -> openvino.Model:
    spec = checkpoint.spec
    network = FAMILIES[spec.family].simplify(checkpoint.build(), spec.preprocess)
    return to_graph(network, spec.preprocess.image_size)


def quantise_for_speed(path: Path, original: Path) -> None:
    """Quantise without measuring what changes: random weights give every image the same class."""
    checkpoint = read_checkpoint(original)
    images = np.concatenate([self_test_images(checkpoint.spec.preprocess.image_size)] * 2)
    layers = find_largest_inputs(graph_of(checkpoint), images)
    found = Quantisation(
        layers=layers,
        tolerance=MAX_TOLERANCE,
        embedding_tolerance=MAX_EMBEDDING_TOLERANCE,
        images=len(images),
        images_sha256="none",
        figures={},
        versions={},
    )
    write_quantised(path, checkpoint, found)


def measure_rates(path: Path, rest: str) -> dict[str, dict[int, float]]:
    """Images per second by precision and batch size, in this process."""
    torch.set_num_threads(1)
    checkpoint = read_checkpoint(path)
    assert checkpoint.quantisation
    graph = graph_of(checkpoint)
    in_int8 = quantise_graph(graph, checkpoint.quantisation.layers)
    backends = {
        precision: OpenVINOBackend(graph, precision, streams=1, threads=1)
        for precision in dict.fromkeys(("float32", rest))
    }
    backends["int8"] = OpenVINOBackend(in_int8, "int8", streams=1, threads=1, rest=rest)
    rates = rates_by_size(backends, checkpoint.spec.preprocess.image_size, EFFORT)
    return {name: {size: rates[name, size] for size in SIZES} for name in backends}


def measure_elsewhere(path: Path, instructions: str) -> Rates:
    """`measure_rates` in another process, which has these instructions only."""
    limit, rest = INSTRUCTIONS[instructions]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.int8", "--rates", str(path), rest],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": limit},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    rates: Rates = json.loads(done.stdout)
    return rates


def row(model: str, instructions: str, rates: Rates) -> list[str]:
    """A row of the table: the best batch size of each precision."""
    best = {name: max(sizes.values()) for name, sizes in rates.items()}
    cells = [model, instructions]
    for name in ("float32", "bfloat16", "int8"):
        found = rates.get(name)
        size = found and max(found, key=lambda key: found[key])
        cells.append(f"{best[name]:.0f} ({size})" if found else "")
    cells.append(f"**{best['int8'] / best['float32']:.2f}**")
    cells.append(f"{best['int8'] / best['bfloat16']:.2f}" if "bfloat16" in best else "")
    return cells


def speed_table(checkpoints: Mapping[str, Path]) -> str:
    rows = [
        row(model, instructions, measure_elsewhere(path, instructions))
        for model, path in checkpoints.items()
        for instructions in INSTRUCTIONS
    ]
    head = ("model", "instructions", "float32", "bfloat16", "int8", "x float32", "x bfloat16")
    return table(head, rows)


def shares(checkpoints: Mapping[str, Path]) -> str:
    """How much of a pass in 32 bits the quantised layers take."""
    lines = []
    for model, path in checkpoints.items():
        checkpoint = read_checkpoint(path)
        assert checkpoint.quantisation
        share = linear_share(graph_of(checkpoint), checkpoint.quantisation.layers)
        lines.append(f"{model} {share:.0%}")
    return f"Share of the quantised layers in a pass in float32: {', '.join(lines)}."


def accuracy_table(original: Path, data: Path, directory: Path) -> str:
    """Accuracy on the test images, in each precision."""
    checkpoint = read_checkpoint(original)
    path = directory / "accuracy.safetensors"
    found, report = quantise(checkpoint, data, max_drop=0.5, labelled=True, quiet=True)
    write_quantised(path, checkpoint, found)
    rows = []
    for precision in ("float32", "bfloat16", "int8"):
        named = "auto" if precision == "int8" else precision
        options = BackendOptions(backend="openvino", precision=named, streams=1)
        result = evaluate(load_classifier(path, options=options), data, split="test", quiet=True)
        rows.append([precision, f"{result.top_1:.2%}", f"{result.top_5:.2%}"])
    agreement = report.differences.agreement
    return (
        f"{table(('precision', 'top-1', 'top-5'), rows)}\n\n"
        f"Top-1 agreement of int8 with float32 on {report.differences.images} test images: "
        f"{agreement:.2%}."
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.int8", description=__doc__)
    parser.add_argument("--data", type=Path, help="image folder or tar with train/ and test/")
    parser.add_argument("--models", nargs="+", default=["bundled", *HEADS])
    parser.add_argument("--rates", nargs=2, metavar=("FILE", "REST"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.rates:
        print(json.dumps(measure_rates(Path(args.rates[0]), args.rates[1])))
        return
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        checkpoints = {}
        for model in args.models:
            original = BUNDLED_CHECKPOINT
            if model != "bundled":
                original = directory / f"{model}-original.safetensors"
                write_random_checkpoint(model, original)
            checkpoints[model] = directory / f"{model}.safetensors"
            quantise_for_speed(checkpoints[model], original)
        print(f"# int8\n\n{provenance()}\n\n## Speed\n\nImages per second on one core, at the")
        print("best batch size, in brackets.\n")
        print(speed_table(checkpoints), shares(checkpoints), sep="\n\n", flush=True)
        if args.data:
            print(f"\n## Accuracy\n\n{accuracy_table(BUNDLED_CHECKPOINT, args.data, directory)}")


if __name__ == "__main__":
    main()
