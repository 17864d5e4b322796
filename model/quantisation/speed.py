"""Measuring a network in several precisions on one core, in turn."""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from model.backends.agreement import self_test_images
from model.backends.base import Backend
from model.backends.openvino_runtime import openvino
from model.backends.timing import Effort, steady_seconds
from model.images.preprocess import Pixels

SIZES = (1, 2, 4, 8)  # images per batch
EFFORT = Effort(rounds=5, seconds=1.0, limit=4.0)
PROFILED = 10  # passes
PAYS = 1.1  # int8 must be this many times as fast as the fastest alternative


@dataclass(frozen=True, slots=True)
class Speed:
    """Images per second on one core, at the best batch size, by precision.

    Attributes:
        linear_share: share of a pass in 32 bits that the quantised layers take, from 0 to 1.
    """

    rates: Mapping[str, float]
    linear_share: float

    @property
    def verdict(self) -> str:
        """Whether int8 pays on this machine, and why."""
        rest = {name: rate for name, rate in self.rates.items() if name != "int8"}
        fastest = max(rest, key=lambda name: rest[name])
        gains = ", ".join(f"{self.rates['int8'] / rest[name]:.2f} x {name}" for name in rest)
        if self.rates["int8"] >= PAYS * rest[fastest]:
            return f"int8 pays on this machine: {gains}"
        reason = (
            f"{fastest} has fast instructions here, too"
            if fastest != "float32"
            else f"its layers take only {self.linear_share:.0%} of a pass in float32"
        )
        return (
            f"int8 does not pay on this machine: {gains}; {reason}; serve the original checkpoint"
        )


def measure_speed(
    backends: Mapping[str, Backend], graph: openvino.Model, layers: Collection[str]
) -> Speed:
    """Measure the backends of one network, by precision, each with one stream of one thread.

    Args:
        graph: the network in 32 bits.
        layers: the quantised layers.
    """
    side = graph.inputs[0].partial_shape[1].get_length()
    by_size = rates_by_size(backends, side)
    rates = {name: max(by_size[name, size] for size in SIZES) for name in backends}
    return Speed(rates, linear_share(graph, layers))


def rates_by_size(
    backends: Mapping[str, Backend], image_size: int, effort: Effort = EFFORT
) -> dict[tuple[str, int], float]:
    """Images per second of each backend and batch size, measured in turn."""
    images = np.concatenate([self_test_images(image_size)] * (max(SIZES) // 4))

    def measure(_: int) -> dict[tuple[str, int], float]:
        return {
            (name, size): _seconds(backend, images[:size])
            for size in SIZES
            for name, backend in backends.items()
        }

    for backend in backends.values():
        backend.open()
    measure(0)  # compiles
    return {key: key[1] / seconds for key, seconds in steady_seconds(measure, effort).items()}


def _seconds(backend: Backend, pixels: Pixels) -> float:
    begun = time.perf_counter()
    backend.logits(pixels)
    return time.perf_counter() - begun


def linear_share(graph: openvino.Model, layers: Collection[str]) -> float:
    """The share of a pass in 32 bits that some layers take, on one thread."""
    graph = graph.clone()
    shape = [max(SIZES), *(side.get_length() for side in list(graph.inputs[0].partial_shape)[1:])]
    graph.reshape(shape)
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": 1,
        "PERF_COUNT": True,
    }
    request = openvino.Core().compile_model(graph, "CPU", settings).create_infer_request()
    total = linear = 0.0
    prefixes = tuple(f"__module.1.{name}/" for name in layers)
    for _ in range(PROFILED):
        request.infer(np.zeros(shape, np.float32))
        for step in request.profiling_info:
            seconds = step.real_time.total_seconds()
            total += seconds
            linear += seconds * step.node_name.startswith(prefixes)
    return linear / total
