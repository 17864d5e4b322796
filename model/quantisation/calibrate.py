"""Finding the largest input of each linear layer on calibration images, with NNCF."""

import contextlib
import io
import logging
from collections.abc import Mapping

import numpy as np

from model.backends.openvino_int8 import linear_layers
from model.backends.openvino_runtime import TELEMETRY, hidden, openvino
from model.images.preprocess import Pixels

logger_class = logging.getLoggerClass()  # NNCF replaces it for the whole process
with hidden(TELEMETRY):  # NNCF then sends none
    import nncf
logging.setLoggerClass(logger_class)
logging.getLogger("nncf").setLevel(logging.ERROR)

PASSING = {"Reshape", "Transpose"}  # operations that do not change numbers


def find_largest_inputs(graph: openvino.Model, images: Pixels) -> dict[str, float]:
    """The magnitude of the largest input of each layer of `linear_layers` that NNCF quantises.

    Args:
        images: pixels ``(n, h, w, 3)``; passed one by one.
    """
    graph = graph.clone()
    graph.reshape([1, *images.shape[1:]])
    layers = linear_layers(graph)
    wanted = {layer.get_friendly_name() for layer in layers.values()}
    products = {"MatMul", "Convolution", "GroupConvolution"}
    others = [
        operation.get_friendly_name()
        for operation in graph.get_ordered_ops()
        if operation.get_type_name() in products and operation.get_friendly_name() not in wanted
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # progress bars
        quantised = nncf.quantize(
            graph,
            nncf.Dataset([image[None].astype(np.float32) for image in images]),
            preset=nncf.QuantizationPreset.PERFORMANCE,  # symmetric
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(images),
            ignored_scope=nncf.IgnoredScope(names=others),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                disable_bias_correction=True,
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1),
            ),
        )
    rounded = {operation.get_friendly_name(): operation for operation in quantised.get_ops()}
    names = {name: layer.get_friendly_name() for name, layer in layers.items()}
    return _largest_inputs({name: rounded[known] for name, known in names.items()})


def _largest_inputs(layers: Mapping[str, openvino.Node]) -> dict[str, float]:
    found = {}
    for name, layer in layers.items():
        source = layer.input_value(0).get_node()
        while source.get_type_name() in PASSING:
            source = source.input_value(0).get_node()
        if source.get_type_name() == "FakeQuantize":
            low, high = (source.input_value(port).get_node().get_data() for port in (1, 2))
            found[name] = max(-low.min().item(), high.max().item())
    return found
