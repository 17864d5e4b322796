"""The requests that benchmarks send."""

import json
from pathlib import Path

import numpy as np

TOP_K = 5


def get(path: str) -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode()


def post_image(image: bytes) -> bytes:
    head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
    return f"{head}Content-Length: {len(image)}\r\n\r\n".encode() + image


def read_images(directory: Path) -> list[bytes]:
    images = [path.read_bytes() for path in sorted(directory.iterdir()) if path.is_file()]
    if not images:
        raise FileNotFoundError(f"{directory} has no images")
    return images


def post_tensor(tensor: bytes, image_size: int) -> bytes:
    """An Open Inference Protocol request for the best classes of one normalised image.

    Args:
        tensor: ``(3, image_size, image_size)`` little-endian 32-bit floats.
    """
    given = {
        "name": "input",
        "shape": [1, 3, image_size, image_size],
        "datatype": "FP32",
        "parameters": {"binary_data_size": len(tensor)},
    }
    wanted = {"name": "probabilities", "parameters": {"classification": TOP_K}}
    text = json.dumps({"inputs": [given], "outputs": [wanted]}).encode()
    head = (
        "POST /v2/models/xcit_tensor/infer HTTP/1.1\r\nHost: localhost\r\n"
        f"Inference-Header-Content-Length: {len(text)}\r\n"
        f"Content-Length: {len(text) + len(tensor)}\r\n\r\n"
    )
    return head.encode() + text + tensor


def random_tensors(count: int, image_size: int) -> list[bytes]:
    """Normalised images of noise; inference time does not depend on their content."""
    chance = np.random.default_rng(0)
    shape = (3, image_size, image_size)
    return [chance.uniform(-2, 2, shape).astype("<f4").tobytes() for _ in range(count)]
