"""NVIDIA Triton through PyTriton: the server batches, two Python callables decode and predict."""

# mypy: disable-error-code="import-not-found, untyped-decorator"
import io
import os
import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.compare.peers.network import (
    INSTANCES,
    MAX_BATCH_SIZE,
    arguments,
    load_network,
)
from benchmarks.ports import free_port

Arrays = dict[str, NDArray[np.generic]]


def infer_function(checkpoint: str) -> Callable[[NDArray[np.object_]], Arrays]:
    """An instance of the model."""
    network = load_network(checkpoint)

    @batch
    def infer(image: NDArray[np.object_]) -> Arrays:
        """Encoded images ``(b, 1)`` to their best classes, ``(b, 5)`` each."""
        pixels = [network.pixels(Image.open(io.BytesIO(data))) for data in image[:, 0]]
        logits = network.logits(torch.from_numpy(np.stack(pixels)))
        rows = [network.best(row) for row in logits]
        return {
            "class_id": np.array([[each["class_id"] for each in row] for row in rows], np.int32),
            "label": np.array([[each["label"].encode() for each in row] for row in rows], object),
            "score": np.array([[each["score"] for each in row] for row in rows], np.float32),
        }

    infer_typed: Callable[[NDArray[np.object_]], Arrays] = infer
    return infer_typed


def main() -> None:
    args = arguments("triton").parse_args()
    torch.set_num_threads(1)
    # Triton's processes load libpython by name: make them find that of this interpreter.
    libraries = (sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH"))
    os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, libraries))
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=args.port,
        grpc_address="127.0.0.1",
        grpc_port=free_port(),
        metrics_address="127.0.0.1",
        metrics_port=free_port(),
    )
    with Triton(config=config, workspace=Path("home").absolute()) as triton:
        triton.bind(
            model_name="xcit",
            infer_func=[infer_function(args.checkpoint) for _ in range(INSTANCES)],
            inputs=[Tensor(name="image", dtype=bytes, shape=(1,))],
            outputs=[
                Tensor(name="class_id", dtype=np.int32, shape=(-1,)),
                Tensor(name="label", dtype=bytes, shape=(-1,)),
                Tensor(name="score", dtype=np.float32, shape=(-1,)),
            ],
            config=ModelConfig(
                max_batch_size=MAX_BATCH_SIZE,
                batcher=DynamicBatcher(max_queue_delay_microseconds=5000),
            ),
        )
        triton.serve()


if __name__ == "__main__":
    main()
