"""OpenVINO's graph with linear layers in 8-bit integers.

Only the layers that hold most of the work are quantised: products with constant weights. Attention,
depth-wise convolutions and norms stay in floating point, because converting their operands takes
longer than integers save. Integers are symmetric around zero: another zero point costs a fifth of
the speed, and gains no accuracy.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from model.backends.openvino_runtime import openvino
from model.errors import ModelError, show

INPUT_LEVELS = 256  # from -128 to 127
WEIGHT_LEVELS = 255  # from -127 to 127
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


def quantise_graph(graph: openvino.Model, layers: Mapping[str, float]) -> openvino.Model:
    """A copy of the graph that OpenVINO compiles to integers where ``layers`` say so.

    The range of the weights of each output channel follows from the weights.

    Args:
        layers: the largest input of each layer; see `linear_layers`.

    Raises:
        ModelError: a layer is not in the graph.
    """
    graph = graph.clone()
    known = linear_layers(graph)
    for name, largest in layers.items():
        if name not in known:
            raise ModelError(
                f"the network has no layer {show(name)} to compute in int8; quantise the original "
                "checkpoint again with this release"
            )
        layer = known[name]
        inputs, weights = layer.input_value(0), layer.input_value(1)
        values = weights.get_node().get_data()
        ends = np.abs(values).max(tuple(range(1, values.ndim)), keepdims=True)
        ends = np.maximum(ends, SMALLEST)
        top = largest * (INPUT_LEVELS // 2 - 1) / (INPUT_LEVELS // 2)
        layer.input(0).replace_source_output(_rounded(inputs, -largest, top, INPUT_LEVELS))
        layer.input(1).replace_source_output(_rounded(weights, -ends, ends, WEIGHT_LEVELS))
    return graph


def _rounded(
    value: openvino.Output, low: ArrayLike, high: ArrayLike, levels: int
) -> openvino.Output:
    """The value, rounded to ``levels`` numbers from ``low`` to ``high``."""
    from openvino import opset13 as operations

    ends = [operations.constant(np.asarray(end, np.float32)) for end in (low, high, low, high)]
    return operations.fake_quantize(value, *ends, levels).output(0)
