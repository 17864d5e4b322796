"""BentoML with adaptive batching; the framework decodes an upload into an image lazily."""

# mypy: disable-error-code="import-not-found, untyped-decorator, misc"
import os
import sys
from pathlib import Path

import bentoml
import numpy as np
import torch
from PIL import Image

from benchmarks.compare.peers.network import (
    INSTANCES,
    MAX_BATCH_SIZE,
    Row,
    arguments,
    load_network,
)

MAX_LATENCY_MS = 30_000  # it refuses requests that it expects to take longer


@bentoml.service(workers=INSTANCES)
class Classifier:
    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.network = load_network(os.environ["CHECKPOINT"])

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH_SIZE, max_latency_ms=MAX_LATENCY_MS)
    def predict(self, images: list[Image.Image]) -> list[list[Row]]:
        pixels = np.stack([self.network.pixels(image) for image in images])
        logits = self.network.logits(torch.from_numpy(pixels))
        return [self.network.best(row) for row in logits]


def main() -> None:
    """Replace this process with the command from its documentation."""
    args = arguments("bentoml").parse_args()
    os.environ |= {"CHECKPOINT": args.checkpoint, "BENTOML_DO_NOT_TRACK": "1"}
    os.environ["BENTOML_HOME"] = str(Path("home").absolute())
    service = "benchmarks.compare.peers.bentoml:Classifier"
    command = [sys.executable, "-m", "bentoml", "serve", service]
    os.execv(command[0], [*command, "--host=127.0.0.1", f"--port={args.port}"])


if __name__ == "__main__":
    main()
