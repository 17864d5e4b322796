"""Converting a network to OpenVINO's graph, cached because it takes a second or more."""

import hashlib
import io
import logging
import tempfile
import warnings
from pathlib import Path

import torch
from torch import nn

from model.backends.cache import seal
from model.backends.openvino_runtime import openvino
from model.backends.torch import to_script

logger = logging.getLogger(__name__)

PACKAGE = Path(__file__).parents[1]


def cached_graph(network: nn.Module, image_size: int, cache: Path | None) -> openvino.Model:
    """Like `to_graph`, but read from the cache or added to it."""
    if cache is None:
        return to_graph(network, image_size)
    kept = cache / f"{fingerprint(network, image_size)}.xml"
    if kept.exists():
        try:
            return openvino.Core().read_model(kept)
        except RuntimeError:
            logger.warning("%s is corrupt and will be replaced", kept)
    graph = to_graph(network, image_size)
    try:
        with tempfile.TemporaryDirectory(dir=cache) as directory:
            made = Path(directory) / kept.name
            openvino.save_model(graph, made, compress_to_fp16=False)
            seal(made.parent)
            for suffix in (".bin", ".xml"):  # .xml last: it is valid only with its .bin
                made.with_suffix(suffix).replace(kept.with_suffix(suffix))
        return openvino.Core().read_model(kept)
    except (OSError, RuntimeError) as error:
        logger.warning("the graph is not cached in %s: %s", cache, error)
        return graph


def fingerprint(network: nn.Module, image_size: int) -> str:
    """A digest of everything that determines the graph: weights, structure, code and libraries."""
    saved = io.BytesIO()
    torch.save(network, saved)
    libraries = f"{torch.__version__} {openvino.__version__} {image_size}"
    code = [path.read_bytes() for path in sorted(PACKAGE.rglob("*.py"))]
    digest = hashlib.sha256()
    for part in (saved.getvalue(), libraries.encode(), *code):
        digest.update(part)
    return digest.hexdigest()[:16]


def to_graph(network: nn.Module, image_size: int) -> openvino.Model:
    """Convert a network to OpenVINO's graph, for batches of any size until it is compiled.

    This uses TorchScript and OpenVINO's frontend directly: `openvino.convert_model` takes three
    times as long and sends telemetry.

    Args:
        network: pixels ``(b, h, w, 3)`` to logits ``(b, classes)``, in 32 bits.
        image_size: pixels per side.
    """
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    script = to_script(network, image_size)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        decoder = TorchScriptPythonDecoder(script)  # must outlive the model made from it
        frontend = FrontEndManager().load_by_framework("pytorch")
        graph = frontend.convert(frontend.load(decoder))
    graph.reshape([-1, image_size, image_size, 3])
    return graph
