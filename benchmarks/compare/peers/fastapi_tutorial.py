"""FastAPI as tutorials use it to serve a model: an upload, Pillow, one forward pass, no batching.

The handler is a coroutine that computes, as in tutorials. A single worker has all of PyTorch's
threads; with several workers, each has one.
"""

import io
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request, UploadFile
from PIL import Image

from benchmarks.compare.peers.network import Network, arguments, load_network


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    if int(os.environ["WORKERS"]) > 1:
        torch.set_num_threads(1)
    app.state.network = load_network(os.environ["CHECKPOINT"])
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/predict")
async def predict(request: Request, file: UploadFile) -> dict[str, Any]:
    network: Network = request.app.state.network
    image = Image.open(io.BytesIO(await file.read()))
    batch = torch.from_numpy(network.pixels(image)).unsqueeze(0)
    return {"predictions": network.best(network.logits(batch)[0])}


def main() -> None:
    parser = arguments("fastapi_tutorial")
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    os.environ |= {"CHECKPOINT": args.checkpoint, "WORKERS": str(args.workers)}
    name = "benchmarks.compare.peers.fastapi_tutorial:app"
    uvicorn.run(name, port=args.port, workers=args.workers)


if __name__ == "__main__":
    main()
