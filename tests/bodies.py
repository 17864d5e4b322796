"""The largest request bodies that the service accepts, and the costliest to read.

Each has 20 MiB (the default of ``XCIT_MAX_BODY_BYTES``), as sent or once inflated.
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
VERTEX = "/vertex"
SAGEMAKER = "/invocations"
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
    """A base64 text that almost fills a body."""
    return base64.b64encode(noise(SIZE * 3 // 4 - 300)).decode()


def photos() -> list[str]:
    """Base64 texts of as many images as a request may hold, which almost fill a body."""
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


def filled(path: str, start: bytes, item: bytes, end: bytes, size: int = SIZE) -> Body:
    """A request of ``size`` bytes, mostly repetitions of ``item``, with its number if any."""
    room = size - len(start) - len(end) + 1
    if b"%d" in item:
        count = room // (len(item) + 5)
        items = b",".join(item % number for number in range(100_000, 100_000 + count))
    else:
        items = b",".join([item] * (room // (len(item) + 1)))
    return text_of(path, start + items + end)


def _string(text: bytes) -> Body:
    """A request whose image is one text that fills the body."""
    start, end = DATA + b'"', b'"]}]}'
    room = SIZE - len(start) - len(end)
    return text_of(INFER, start + text * (room // len(text)) + end)


DATA = b'{"inputs":[{"name":"image","shape":[1],"datatype":"BYTES","data":['
ONE = DATA + b'"MQ=="]}],'
DENSE: dict[str, tuple[str, bytes, bytes, bytes]] = {
    "members": (INFER, ONE, b'"a%d":0', b"}"),
    "members with long names": (INFER, ONE, b'"%b%%d":0' % (b"inputs" * 15), b"}"),
    "members of an input": (INFER, b'{"inputs":[{', b'"a%d":0', b"}]}"),
    "inputs": (INFER, b'{"inputs":[', b'{"name":"a","shape":[],"datatype":""}', b"]}"),
    "outputs": (INFER, ONE + b'"outputs":[', b'{"name":"a","b":1}', b"]}"),
    "mistakes in inputs": (INFER, b'{"inputs":[', b"0", b',""]}'),
    "mistakes in outputs": (INFER, ONE + b'"outputs":[', b"0", b',""]}'),
    "parameters": (INFER, ONE + b'"parameters":{', b'"a%d":0', b"}}"),
    "lists of parameters": (INFER, ONE + b'"parameters":{"a":[', b'"",[]', b"]}}"),
    "objects": (INFER, DATA, b"{}", b"]}]}"),
    "lists": (INFER, DATA, b"[]", b"]}]}"),
    "lists of strings": (INFER, DATA, b'["A"]', b"]}]}"),
    "nested lists": (INFER, DATA, b"[", b"]}]}"),
    "strings": (INFER, DATA, b'""', b"]}]}"),
    "strings of 101 bytes": (INFER, DATA, b'"%b"' % (b"A" * 101), b"]}]}"),
    "shape": (INFER, b'{"inputs":[{"name":"image","shape":[', b"1", b"]}]}"),
    "negative shape": (INFER, b'{"inputs":[{"name":"image","shape":[', b"-1", b"]}]}"),
    "zeros": (INFER_TENSOR, DATA, b"0", b"]}]}"),
    "long numbers": (INFER_TENSOR, DATA, b"1" * 4_200, b"]}]}"),
    "long fractions": (INFER_TENSOR, DATA, b"0." + b"1" * 4_200, b"]}]}"),
    "instances": (VERTEX, b'{"instances":[', b'{"b64":""}', b"]}"),
    "members beside instances": (VERTEX, b'{"instances":[{"b64":"MQ=="}],', b'"a%d":0', b"}"),
    "members beside an image": ("/predict", b'{"image":"MQ==",', b'"a%d":0', b"}"),
}


LARGEST: dict[str, Callable[[], Body]] = {
    "raw": lambda: Body("/predict", noise(SIZE), {}),
    "multipart": lambda: form("/predict", part(noise(SIZE - 200))),
    "JSON image": lambda: as_json("/predict", {"image": photo()}),
    "JSON image, slashes escaped": lambda: text_of(
        "/predict", b'{"image":"%b"}' % photo()[: SIZE * 9 // 10].replace("/", r"\/").encode()
    ),
    "base64 text": lambda: Body("/predict", b"/9j/" + photo().encode(), {}),
    "image to explain": lambda: as_json("/explain", {"image": photo()}),
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
    "instances": lambda: as_json(VERTEX, {"instances": [{"b64": each} for each in photos()]}),
}
INVOCATIONS: dict[str, Callable[[], Body]] = {
    "raw": lambda: Body(SAGEMAKER, noise(SIZE), {}),
    "multipart": lambda: form(SAGEMAKER, part(noise(SIZE - 200))),
    "JSON image": lambda: as_json(SAGEMAKER, {"image": photo()}),
    "tiny parts": lambda: form(SAGEMAKER, part(b"", filename="") * 200_000),
}
HOSTILE: dict[str, Callable[[], Body]] = {
    "tiny parts": lambda: form("/predict", part(b"", filename="") * 200_000),
    "tiny parts of a batch": lambda: form("/predict/batch", part(b"", filename="") * 200_000),
    "tiny parts of a parameter": lambda: form("/predict", part(b"1", "top_k", "") * 200_000),
    "fields of a part's head": lambda: form(
        "/predict", b"--x\r\n" + b"a: b\r\n" * (SIZE // 6 - 9) + b"\r\n\r\n"
    ),
    "a part's head": lambda: form("/predict", b"--x\r\na: " + b"b" * (SIZE - 99) + b"\r\n\r\n"),
    "line breaks": lambda: form("/predict", part(b"\r\n--x" + b"\r\n" * (SIZE // 2 - 99))),
    "blanks": lambda: _string(b"A "),
    "blanks, deflate": lambda: compressed(_string(b"A "), "deflate"),
    "zeros, deflate": lambda: compressed(Body(INFER, bytes(SIZE), {}), "deflate"),
    "escapes": lambda: _string(rb"\u0041"),
    "escaped quotes": lambda: _string(rb"\""),
    "backslashes": lambda: _string(rb"\\"),
    "not ASCII": lambda: _string("ä".encode()),
    "one number": lambda: text_of(INFER, DATA + b"1" * (SIZE - 100) + b"]}]}"),
    "white space": lambda: text_of(INFER, DATA + b" " * (SIZE - 100) + b"0]}]}"),
    "one string": lambda: text_of(INFER, b'"' + b"a" * (SIZE - 2) + b'"'),
    "a name": lambda: text_of(INFER, b'{"inputs":[],"%b":0}' % (b"a" * (SIZE - 99))),
    "an id": lambda: text_of(INFER, b'{"inputs":[],"id":"%b"}' % (b"a" * (SIZE - 99))),
}
