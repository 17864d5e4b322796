"""OpenVINO's graph with linear layers in 8-bit integers.

Only the layers that hold most of the work are quantised: products with constant weights. Attention,
depth-wise convolutions and norms stay in floating point, because converting their operands takes
longer than integers save.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from model.backends.openvino_runtime import openvino
from model.errors import ModelError, show
from model.metadata.quantisation import Interval

LEVELS = 256  # of an input
WEIGHT_LEVELS = 255  # symmetric: zero stays zero
SMALLEST = 1e-8  # of the range of a channel whose weights are all zero
MIN_CHANNELS = 4  # a convolution of pixels is cheap, and sees every detail
PREFIX, WEIGHT = "self.1.", ".weight"  # of the constants of a network; see `cast`


def linear_layers(graph: openvino.Model) -> dict[str, openvino.Node]:
    """The products and convolutions with constant weights that see many rows per image, by name.

    Layers that see one row per image, such as the class token's, take no time worth saving.
    """
    found = {}
    for operation in graph.get_ordered_ops():
        kind = operation.get_type_name()
        if kind not in {"MatMul", "Convolution"}:
            continue
        name = operation.input_value(1).get_node().get_friendly_name()
        if _is_constant(operation, 1) and name.endswith(WEIGHT) and _is_large(operation, kind):
            found[name.removeprefix(PREFIX).removesuffix(WEIGHT)] = operation
    return found


def _is_constant(operation: openvino.Node, port: int) -> bool:
    return operation.input_value(port).get_node().get_type_name() == "Constant"


def _is_large(operation: openvino.Node, kind: str) -> bool:
    shape = operation.get_input_partial_shape(0)
    if kind == "Convolution":
        return shape[1].get_length() >= MIN_CHANNELS
    rows = [side.get_length() for side in list(shape)[1:-1] if side.is_static]
    return math.prod(rows) > 1 and operation.get_attributes()["transpose_b"]


def quantise_graph(graph: openvino.Model, layers: Mapping[str, Interval]) -> openvino.Model:
    """A copy of the graph that OpenVINO compiles to integers where ``layers`` say so.

    The range of the weights of each output channel follows from the weights.

    Args:
        layers: the interval of the input of each layer; see `linear_layers`.

    Raises:
        ModelError: a layer is not in the graph.
    """
    graph = graph.clone()
    known = linear_layers(graph)
    for name, (low, high) in layers.items():
        if name not in known:
            raise ModelError(
                f"the network has no layer {show(name)} to compute in int8; quantise the original "
                "checkpoint again with this release"
            )
        layer = known[name]
        rounded = _rounded(layer.input_value(0), np.float32(low), np.float32(high), LEVELS)
        weights = layer.input_value(1)
        values = weights.get_node().get_data()
        largest = np.abs(values).max(tuple(range(1, values.ndim)), keepdims=True)
        bound = np.maximum(largest, SMALLEST).astype(np.float32)
        layer.input(0).replace_source_output(rounded)
        layer.input(1).replace_source_output(_rounded(weights, -bound, bound, WEIGHT_LEVELS))
    return graph


def _rounded(
    value: openvino.Output,
    low: NDArray[np.float32] | np.float32,
    high: NDArray[np.float32] | np.float32,
    levels: int,
) -> openvino.Output:
    """The value, rounded to ``levels`` numbers from ``low`` to ``high``."""
    from openvino import opset13 as operations

    ends = [operations.constant(np.asarray(end, np.float32)) for end in (low, high, low, high)]
    return operations.fake_quantize(value, *ends, levels).output(0)
