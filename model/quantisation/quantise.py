"""Choosing the layers of a checkpoint to compute in 8-bit integers, and reporting the result."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from model.backends.agreement import embedding_distance, reference, self_test_images
from model.backends.openvino import OpenVINOBackend
from model.backends.openvino_graph import to_graph
from model.backends.openvino_int8 import linear_layers, quantise_graph
from model.backends.openvino_runtime import openvino
from model.backends.torch import fastest_precision
from model.checkpoint import Checkpoint
from model.errors import ModelError
from model.families.registry import FAMILIES
from model.families.simplify import baseline
from model.images.preprocess import Pixels
from model.metadata.quantisation import MAX_EMBEDDING_TOLERANCE, MAX_TOLERANCE, Quantisation
from model.quantisation.calibrate import find_largest_inputs
from model.quantisation.differences import Differences, all_logits, compare
from model.quantisation.images import read_images
from model.quantisation.speed import Speed, measure_speed
from model.scores import Logits, softmax

RANKED = 100  # images on which layers are ranked
MARGIN = 0.02  # of a probability: other processors round in another order
SHOWN = 10  # names of layers
LIBRARIES = ("xcit-serve", "nncf", "openvino", "torch")

Layers = dict[str, float]


@dataclass(frozen=True, slots=True)
class Report:
    """The result of `quantise`.

    Attributes:
        kept: linear layers that stay in floating point.
        weights: number of weights in integers, and of all weights.
    """

    differences: Differences
    speed: Speed
    quantised: tuple[str, ...]
    kept: tuple[str, ...]
    weights: tuple[int, int]

    def figures(self) -> dict[str, str]:
        """The figures by name, as text."""
        found, (integers, all_weights) = self.differences, self.weights
        rows = {
            "images": f"{found.images}",
            "top-1 agreement": f"{found.agreement:.2%}",
            "top-5 agreement": f"{found.top_5:.2%}",
            "mean |Δp|": f"{found.mean_change:.5f}, at most {found.greatest_change:.3f}",
        }
        if found.accuracy_before is not None:
            rows["accuracy"] = (
                f"{found.accuracy_before:.2%} before, {found.accuracy_after:.2%} after"
            )
        size = (4 * all_weights, 4 * (all_weights - integers) + integers)
        rows["weights in use"] = (
            " before, ".join(f"{each / 2**20:.1f} MiB" for each in size) + " after"
        )
        for name, rate in self.speed.rates.items():
            rows[f"images/s in {name}"] = f"{rate:.0f}"
        rows["layers in int8"] = f"{len(self.quantised)} of {len(self.quantised) + len(self.kept)}"
        if self.kept:
            more = len(self.kept) - SHOWN
            rows["layers kept"] = ", ".join(self.kept[:SHOWN]) + f" and {more} more" * (more > 0)
        rows["result"] = self.speed.verdict
        return rows


def quantise(
    checkpoint: Checkpoint,
    source: Path,
    *,
    max_drop: float,
    labelled: bool,
    cores: int = 1,
    quiet: bool = False,
) -> tuple[Quantisation, Report]:
    """Quantise a checkpoint with images like those that it will classify.

    Args:
        source: a directory or tar archive of images.
        max_drop: the greatest loss, in percentage points; see `Differences.drop`.
        labelled: whether each image is in a folder named after its class.
        cores: CPU threads to use, except for measuring speed.

    Raises:
        ModelError: the images do not fit, or too few layers can be quantised.
    """
    if checkpoint.quantisation:
        raise ModelError(f"{checkpoint.path}: already quantised; give the original checkpoint")
    spec = checkpoint.spec
    images = read_images(spec, source, labelled=labelled, quiet=quiet)
    network = FAMILIES[spec.family].simplify(checkpoint.build(), spec.preprocess)
    graph = to_graph(network, spec.preprocess.image_size)
    rest = fastest_precision(torch.device("cpu"))

    def run(graph: openvino.Model, precision: str, pixels: Pixels) -> Logits:
        return all_logits(_backend(graph, precision, rest, cores), pixels)

    before = run(graph, "float32", images.measured)
    if spec.num_classes > 1 and len(set(before.argmax(1))) == 1:
        raise ModelError(
            f"{source}: the model gives every image the class "
            f"{spec.labels[before[0].argmax()]!r}; expected images of several classes"
        )
    inputs = find_largest_inputs(graph, images.calibration)

    def measure(layers: Layers, count: int | None = None) -> Differences:
        after = run(quantise_graph(graph, layers), "int8", images.measured[:count])
        classes = None if images.classes is None else images.classes[:count]
        return compare(before[:count], after, classes, spec.temperatures)

    layers, differences = choose_layers(inputs, measure, max_drop, quiet=quiet)
    report = _report(checkpoint, graph, layers, differences, rest)
    quantisation = Quantisation(
        layers=layers,
        images=len(images.calibration),
        images_sha256=images.sha256,
        figures=report.figures(),
        versions={name: version(name) for name in LIBRARIES},
        **_tolerances(checkpoint, layers, rest),
    )
    return quantisation, report


def _report(
    checkpoint: Checkpoint,
    graph: openvino.Model,
    layers: Layers,
    differences: Differences,
    rest: str,
) -> Report:
    """Measure the speed and the size, and collect all figures."""
    graphs = {"float32": graph, rest: graph, "int8": quantise_graph(graph, layers)}
    backends = {name: _backend(each, name, rest, 1) for name, each in graphs.items()}
    known = linear_layers(graph)
    return Report(
        differences,
        measure_speed(backends, graph, layers),
        tuple(layers),
        tuple(name for name in known if name not in layers),
        (
            sum(int(np.prod(known[name].get_input_shape(1))) for name in layers),
            sum(tensor.numel() for tensor in checkpoint.state.values()),
        ),
    )


def _backend(graph: openvino.Model, precision: str, rest: str, threads: int) -> OpenVINOBackend:
    """A backend with one stream; ``rest`` is the precision around layers in int8."""
    return OpenVINOBackend(
        graph, precision, streams=1, threads=threads, rest=rest if precision == "int8" else None
    )


def choose_layers(
    inputs: Layers, measure: Callable[..., Differences], max_drop: float, *, quiet: bool = False
) -> tuple[Layers, Differences]:
    """All layers, or else all but the fewest of the most harmful ones that keep to ``max_drop``.

    Layers are ranked by how much each of them alone changes the probabilities.

    Args:
        measure: the differences with some layers quantised, over all images or the first few.

    Raises:
        ModelError: no layer can be quantised.
    """
    found = every = measure(inputs)
    if found.drop <= max_drop:
        return inputs, found
    names = tqdm(inputs, desc="rank layers", unit="layer", disable=quiet)
    harm = {name: measure({name: inputs[name]}, RANKED).mean_change for name in names}
    ranked = sorted(inputs, key=lambda name: harm[name])
    chosen: Layers = {}
    allowed, refused = 0, len(ranked)  # numbers of layers
    while refused - allowed > 1:
        middle = (allowed + refused) // 2
        layers = {name: inputs[name] for name in ranked[:middle]}
        differences = measure(layers)
        if differences.drop <= max_drop:
            allowed, chosen, found = middle, layers, differences
        else:
            refused = middle
    if not chosen:
        raise ModelError(
            f"no layer can be computed in int8: all of them lose {every.drop:.2f} points, and each "
            f"number of them more than {max_drop:g}; raise the maximum, or serve the original"
        )
    return {name: chosen[name] for name in inputs if name in chosen}, found


def _tolerances(checkpoint: Checkpoint, layers: Layers, rest: str) -> dict[str, float]:
    """The tolerances of the self-test at start-up, by name.

    Raises:
        ModelError: one of them would be too great.
    """
    spec, preprocess = checkpoint.spec, checkpoint.spec.preprocess
    size, classes = preprocess.image_size, spec.num_classes
    whole = baseline(checkpoint.build(embeds=True), preprocess)
    expected, embeddings = reference(whole, size, classes)
    assert embeddings is not None
    network = FAMILIES[spec.family].simplify(checkpoint.build(embeds=True), preprocess)
    backend = _backend(quantise_graph(to_graph(network, size), layers), "int8", rest, 1)
    found = backend.logits(self_test_images(size))
    change = np.abs(softmax(found[:, :classes]) - expected).max().item()
    return {
        "tolerance": _tolerance("probability", change, MAX_TOLERANCE),
        "embedding_tolerance": _tolerance(
            "embedding", embedding_distance(found[:, classes:], embeddings), MAX_EMBEDDING_TOLERANCE
        ),
    }


def _tolerance(what: str, distance: float, greatest: float) -> float:
    tolerance = round(2 * distance + MARGIN, 4)
    if not tolerance <= greatest:
        raise ModelError(
            f"int8 changes the {what} of the self-test images by {distance:.3f}; at most "
            f"{(greatest - MARGIN) / 2:.3f} is allowed; lower the maximum drop"
        )
    return tolerance
