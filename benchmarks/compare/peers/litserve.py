"""LitServe with batching; the worker that predicts a batch decodes its images, one by one."""

# mypy: disable-error-code="import-not-found, misc, unused-ignore"
import litserve as ls
import numpy as np
import torch
from fastapi import UploadFile
from PIL import Image
from torch import Tensor

from benchmarks.compare.peers.network import (
    INSTANCES,
    MAX_BATCH_SIZE,
    Pixels,
    Row,
    arguments,
    load_network,
)


class ClassifierAPI(ls.LitAPI):
    def __init__(self, checkpoint: str) -> None:
        super().__init__(max_batch_size=MAX_BATCH_SIZE, batch_timeout=0.005)
        self.checkpoint = checkpoint

    def setup(self, device: str) -> None:
        torch.set_num_threads(1)
        self.network = load_network(self.checkpoint)

    def decode_request(self, request: UploadFile) -> Pixels:
        return self.network.pixels(Image.open(request.file))

    def batch(self, inputs: list[Pixels]) -> Tensor:
        return torch.from_numpy(np.stack(inputs))

    def predict(self, batch: Tensor) -> Tensor:
        return self.network.logits(batch)

    def unbatch(self, output: Tensor) -> list[Tensor]:
        return list(output)

    def encode_response(self, output: Tensor) -> dict[str, list[Row]]:
        return {"predictions": self.network.best(output)}


def main() -> None:
    args = arguments("litserve").parse_args()
    api = ClassifierAPI(args.checkpoint)
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=INSTANCES)
    server.run(host="127.0.0.1", port=args.port, generate_client_file=False)


if __name__ == "__main__":
    main()
