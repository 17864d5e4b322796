"""The largest bodies of requests that a service accepts, of every kind, and what costs most to read.

Each is 20 MiB (the default of ``XCIT_MAX_BODY_BYTES``), as it comes or once it is inflated.
"""

import base64
import gzip
import json
import zlib
from array import array
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

SIZE = 20 * 2**20
ROWS = 256
INFER = "/v2/models/xcit/infer"
INFER_TENSOR = "/v2/models/xcit_tensor/infer"
IMAGE_SIDE = 32  # of the bundled model
VALUES = 3 * IMAGE_SIDE**2


class Body(NamedTuple):
    """A request."""

    path: str
    content: bytes
    headers: dict[str, str]


def part(content: bytes, name: str = "file", filename: str = "a.jpg") -> bytes:
    head = f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n\r\n'
    return head.encode() + content + b"\r\n"


def form(path: str, parts: bytes) -> Body:
    headers = {"content-type": "multipart/form-data; boundary=x"}
    return Body(path, (parts + b"--x--\r\n")[:SIZE], headers)


def as_json(path: str, content: object) -> Body:
    text = json.dumps(content, separators=(",", ":")).encode()
    assert len(text) <= SIZE
    return text_of(path, text)


def text_of(path: str, text: bytes) -> Body:
    return Body(path, text[:SIZE], {"content-type": "application/json"})


def images(texts: list[str]) -> dict[str, Any]:
    return {"name": "image", "shape": [len(texts)], "datatype": "BYTES", "data": texts}


def tensor(numbers: list[Any], **more: Any) -> dict[str, Any]:
    shape = [ROWS, 3, IMAGE_SIDE, IMAGE_SIDE]
    return {"name": "input", "shape": shape, "datatype": "FP32", "data": numbers, **more}


def compressed(body: Body, encoding: str) -> Body:
    compress = gzip.compress if encoding == "gzip" else zlib.compress
    return Body(
        body.path, compress(body.content, 1), {**body.headers, "content-encoding": encoding}
    )


def noise(size: int) -> bytes:
    return Random(0).randbytes(size)


def numbers(count: int) -> list[float]:
    random = Random(0)
    return [round(random.gauss(0, 1), 6) for _ in range(count)]


def photo() -> str:
    """Base64 that almost fills a body."""
    return base64.b64encode(noise(SIZE * 3 // 4 - 300)).decode()


def photos() -> list[str]:
    """Base64 of as many images as a request may hold, which almost fill a body."""
    return [base64.b64encode(noise(SIZE * 3 // 4 // ROWS - 200)).decode()] * ROWS


def oip_numbers() -> Body:
    return as_json(INFER_TENSOR, {"inputs": [tensor(numbers(ROWS * VALUES))]})


def oip_nested() -> Body:
    values = numbers(VALUES)
    rows = [values[i : i + IMAGE_SIDE] for i in range(0, VALUES, IMAGE_SIDE)]
    channels = [rows[i : i + IMAGE_SIDE] for i in range(0, 3 * IMAGE_SIDE, IMAGE_SIDE)]
    return as_json(INFER_TENSOR, {"inputs": [tensor([channels] * ROWS)]})


def oip_bytes() -> Body:
    return as_json(INFER, {"inputs": [images(photos())]})


def oip_binary() -> Body:
    content = array("f", numbers(VALUES)).tobytes() * ROWS
    given = tensor([], parameters={"binary_data_size": len(content)})
    del given["data"]
    header = json.dumps({"inputs": [given]}).encode()
    length = {"Inference-Header-Content-Length": str(len(header))}
    return Body(INFER_TENSOR, header + content, length)


def _data(text: bytes) -> Body:
    """A request whose ``data`` is a text that fills the body."""
    start = b'{"inputs":[{"name":"image","shape":[1],"datatype":"BYTES","data":['
    room = SIZE - len(start) - len(b"0]}]}")
    return text_of(INFER, start + (text * (room // len(text)))[:room] + b"0]}]}")


def _string(text: bytes) -> Body:
    """A request whose image is a string that fills the body."""
    room = SIZE - 100
    return as_json_text(INFER, text * (room // len(text)))


def as_json_text(path: str, text: bytes) -> Body:
    start = b'{"inputs":[{"name":"image","shape":[1],"datatype":"BYTES","data":["'
    return text_of(path, start + text + b'"]}]}')


LARGEST: dict[str, Callable[[], Body]] = {
    "raw": lambda: Body("/predict", noise(SIZE), {}),
    "multipart": lambda: form("/predict", part(noise(SIZE - 200))),
    "JSON image": lambda: as_json("/predict", {"image": photo()}),
    "JSON image, slashes escaped": lambda: text_of(
        "/predict", b'{"image":"%b"}' % photo()[: SIZE * 9 // 10].replace("/", r"\/").encode()
    ),
    "base64 part": lambda: form(
        "/predict",
        part(photo().encode()[:-200]).replace(
            b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n", 1
        ),
    ),
    "batch": lambda: form("/predict/batch", part(noise(SIZE // ROWS - 200)) * ROWS),
    "OIP numbers": oip_numbers,
    "OIP nested numbers": oip_nested,
    "OIP BYTES": oip_bytes,
    "OIP binary": oip_binary,
    "OIP numbers, gzip": lambda: compressed(oip_numbers(), "gzip"),
    "OIP BYTES, gzip": lambda: compressed(oip_bytes(), "gzip"),
    "OIP BYTES, deflate": lambda: compressed(oip_bytes(), "deflate"),
    "OIP binary, deflate": lambda: compressed(oip_binary(), "deflate"),
}
INSTANCES: dict[str, Callable[[], Body]] = {
    "instances": lambda: as_json("/vertex", {"instances": [{"b64": each} for each in photos()]}),
}
HOSTILE: dict[str, Callable[[], Body]] = {
    "tiny parts": lambda: form("/predict", part(b"", filename="") * 200_000),
    "tiny parts of a batch": lambda: form("/predict/batch", part(b"", filename="") * 200_000),
    "blanks": lambda: _string(b"A "),
    "blanks, deflate": lambda: compressed(_string(b"A "), "deflate"),
    "escapes": lambda: _string(rb"\u0041"),
    "escaped quotes": lambda: _string(rb"\""),
    "backslashes": lambda: _string(rb"\\"),
    "not ASCII": lambda: _string("ä".encode()),
    "strings": lambda: _data(b'"",'),
    "strings of 101 bytes": lambda: _data(b'"%b",' % (b"A" * 101)),
    "objects": lambda: _data(b"{},"),
    "lists": lambda: _data(b"[],"),
    "nested lists": lambda: _data(b"["),
    "zeros": lambda: _data(b"0,"),
    "long numbers": lambda: _data(b"1" * 4_200 + b","),
    "one number": lambda: _data(b"1"),
    "white space": lambda: _data(b" "),
    "members": lambda: text_of(INFER, b"{" + b'"a":0,' * (SIZE // 6 - 2) + b'"a":0}'),
    "mistakes in inputs": lambda: text_of(INFER, b'{"inputs":[' + b"0," * 130_000 + b'""]}'),
}
