"""OpenVINO on a CPU: the network as one graph, compiled for this processor."""

import logging
import threading
from collections.abc import Collection
from pathlib import Path

import numpy as np

from model.backends.cache import seal
from model.backends.openvino_runtime import openvino
from model.images.preprocess import AnyPixels
from model.scores import Logits

logger = logging.getLogger(__name__)

COPIES = {"Const", "Input", "Output", "Concatenation"}
_PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


class OpenVINOBackend:
    """A compiled graph for each batch size, with an inference request for each thread.

    A graph for a fixed batch size is much faster than a generic one: operations are merged, and
    convolutions need no copies between memory layouts.

    Args:
        graph: see `to_graph`.
        precision: ``float32``, ``bfloat16``, ``float16``, or ``int8`` for a graph by
            `quantise_graph`. streams, threads: number of batches that run side by side, and CPU
            threads for each.
        rest: precision of the operations that are not in integers.
        cache_dir: directory for compiled graphs; see `open_cache`.
    """

    name = "openvino"
    device = "cpu"
    largest_batch = 8  # larger sizes cost start-up time and memory, and gain a few per cent
    pads = True

    def __init__(
        self,
        graph: openvino.Model,
        precision: str,
        *,
        streams: int,
        threads: int,
        rest: str | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        self.precision, self.streams, self.threads = precision, streams, threads
        self._graph, self._core = graph, openvino.Core()
        self._cache_dir = cache_dir
        self._settings = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[rest or precision],
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": streams * threads,
            "ENABLE_CPU_PINNING": False,  # decoding shares the cores
        }
        self._by_size: dict[int, CompiledGraph] = {}
        self._one_compiles = threading.Lock()

    def open(self) -> None: ...

    def logits(self, pixels: AnyPixels) -> Logits:
        request = self._compiled(len(pixels)).request
        floats = pixels.astype(np.float32, copy=False)
        outputs = request.infer(floats, share_inputs=True, share_outputs=True)
        logits: Logits = outputs[0].copy()  # the next pass reuses this buffer
        return logits

    def keep(self, sizes: Collection[int]) -> None:
        self._by_size = {size: kept for size, kept in self._by_size.items() if size in sizes}

    def kernels(self, size: int) -> list[str]:
        return self._compiled(size).kernels()

    def _compiled(self, size: int) -> "CompiledGraph":
        with self._one_compiles:
            if size not in self._by_size:
                graph = self._graph.clone()
                graph.reshape([size, *graph.inputs[0].partial_shape[1:]])
                self._by_size[size] = CompiledGraph(self._compile(graph))
            return self._by_size[size]

    def _compile(self, graph: openvino.Model) -> openvino.CompiledModel:
        """Compile a graph, or load it from the cache; the cache is disabled once it has failed."""
        if self._cache_dir:
            try:
                kept = self._settings | {"CACHE_DIR": str(self._cache_dir)}
                compiled = self._core.compile_model(graph, "CPU", kept)
                seal(self._cache_dir)
                return compiled
            except (OSError, RuntimeError) as error:
                logger.warning("compiled models are not cached in %s: %s", self._cache_dir, error)
                self._cache_dir = None
        return self._core.compile_model(graph, "CPU", self._settings)


class CompiledGraph(threading.local):
    """A graph for one batch size, with an inference request per thread."""

    def __init__(self, model: openvino.CompiledModel) -> None:
        self._model = model
        self.request = model.create_infer_request()

    def kernels(self) -> list[str]:
        """The kernels of the graph in order, except those that only copy."""
        found = [
            operation.get_rt_info()
            for operation in self._model.get_runtime_model().get_ordered_ops()
        ]
        return [
            f"{info['layerType'].astype(str)} {info['primitiveType'].astype(str)}"
            for info in found
            if info["layerType"].astype(str) not in COPIES
        ]
