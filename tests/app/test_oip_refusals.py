"""Refused requests of the Open Inference Protocol."""

import asyncio
import gzip
import json
import time
import tracemalloc
import zlib
from array import array
from typing import Any

import pytest

from tests.yardstick import slowness

from .conftest import FakeClassifier, running, until
from .oip_messages import (
    INFER,
    INFER_TENSOR,
    TWO,
    binary,
    elements,
    error,
    images,
    request_of,
    tensor,
)

pytestmark = pytest.mark.anyio

JUNK = b"{" * 100

ZEROS = array("f", [0.0] * 12).tobytes()

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no JSON": ({"content": JUNK}, "not an inference request: body: Invalid JSON"),
    "nothing": ({"content": b""}, "not an inference request"),
    "no inputs": ({"json": {}}, "inputs: Field required"),
    "not one input": (request_of(), "0 inputs; xcit takes one"),
    "two inputs": (request_of(TWO, TWO), "2 inputs; xcit takes one"),
    "name": (request_of(images(b"1", name="img")), "unknown input 'img'; xcit has 'image'"),
    "dtype": (request_of(images(b"1", datatype="UINT8")), "is 'UINT8'; xcit takes BYTES"),
    "shape": (request_of(images(b"1", shape=[1, 2])), "has shape [1, 2]; expected [-1, 1]"),
    "no shape": (request_of(images(b"1", shape=[])), "has shape []"),
    "negative shape": (request_of(images(b"1", shape=[-1])), "shape.0: must be greater"),
    "shape of text": (request_of(images(b"1", shape=["1"])), "shape.0: must be a valid"),
    "no rows": (request_of(images(shape=[0])), "has no rows"),
    "too few": (request_of(images(b"1", shape=[2])), "has 1 elements; its shape requires 2"),
    "a number": (
        request_of(images(data=[1], shape=[1])),
        "an image must be a base64 string, not 1",
    ),
    "no base64": (request_of(images(data=["%"], shape=[1])), "not valid base64"),
    "uneven": (request_of(images(data=[["MQ=="], "MQ=="], shape=[2])), "nested unevenly"),
    "no data": (request_of(images(data=None, shape=[1])), "either data or binary_data_size"),
    "both": (
        request_of(images(b"1", parameters={"binary_data_size": 3})),
        "either data or binary_data_size",
    ),
    "strange member": (
        request_of(images(b"1", date=3)),
        "unknown member 'date'; did you mean data?",
    ),
    "output twice": (
        request_of(TWO, outputs=[{"name": "logits"}, {"name": "logits"}]),
        "an output is requested twice",
    ),
    "classes": (
        request_of(TWO, outputs=[{"name": "logits", "parameters": {"classification": 11}}]),
        "classification is 11; it must be a whole number from 1 to 10",
    ),
    "classes of text": (
        request_of(TWO, outputs=[{"name": "logits", "parameters": {"classification": "2"}}]),
        "classification is '2'",
    ),
    "binary of text": (
        request_of(TWO, outputs=[{"name": "logits", "parameters": {"binary_data": "yes"}}]),
        "binary_data must be true or false",
    ),
    "timeout": (request_of(TWO, parameters={"timeout": -1}), "timeout is -1"),
    "shared memory": (
        request_of(TWO, parameters={"shared_memory_region": "x"}),
        "parameter 'shared_memory_region' belongs to an unsupported extension",
    ),
    "size beyond the body": (binary(TWO, b"", 8), "binary_data_size is 8, and 0 bytes follow"),
    "size of text": (binary(TWO, b"12", "2"), "binary_data_size is '2'"),
    "negative size": (binary(TWO, b"12", -2), "binary_data_size is -2"),
    "more than the size": (
        binary(TWO, elements(b"1", b"2") + b"x", 10),
        "1 unexpected bytes after the inputs",
    ),
    "one element of two": (binary(TWO, elements(b"1")), "are not 2 elements"),
    "three elements of two": (binary(TWO, elements(b"1", b"2", b"3")), "are not 2 elements"),
    "element beyond the end": (binary(TWO, elements(b"1", b"2")[:-1]), "are not 2 elements"),
    "half a length": (binary(TWO, elements(b"1") + b"\0\0"), "are not 2 elements"),
    "header beyond the body": (
        {"content": b"{}", "headers": {"Inference-Header-Content-Length": "3"}},
        "3 bytes of JSON declared; the body has 2",
    ),
    "header of text": (
        {"content": b"{}", "headers": {"Inference-Header-Content-Length": "two"}},
        "Inference-Header-Content-Length is 'two'",
    ),
    "encoding": (
        {"content": b"{}", "headers": {"content-encoding": "br"}},
        "Content-Encoding is 'br'; it must be gzip or deflate",
    ),
    "no gzip": (
        {"content": b"{}", "headers": {"content-encoding": "gzip"}},
        "the body is not valid gzip data",
    ),
    "half a gzip": (
        {"content": gzip.compress(b"{}")[:-4], "headers": {"content-encoding": "gzip"}},
        "is truncated",
    ),
    "an image that does not decode": (
        request_of(images(b"1", b"bad")),
        "image 1 of 2, counted from 0: it does not decode",
    ),
}

BOMBS = {
    "empty objects": b'{"inputs": [' + b"{}," * 6_000_000 + b"{}]}",
    "empty lists": b'{"inputs": [{"data": [' + b"[]," * 6_000_000 + b"[]]}]}",
    "numbers": b'{"inputs": [{"data": [' + b"0," * 9_000_000 + b"0]}]}",
    "texts": b'{"inputs": [' + b'"",' * 6_000_000 + b'""]}',
    "unknown members": b"{" + b'"a":0,' * 3_000_000 + b'"a":0}',
    "mistakes in inputs": b'{"inputs": [' + b"0," * 1_900_000 + b"0]}",
    "mistakes in outputs": b'{"inputs": [], "outputs": [' + b"0," * 1_900_000 + b"0]}",
    "mistakes in a shape": b'{"inputs": [{"shape": [' + b"-1," * 1_900_000 + b"0]}]}",
}

REFUSED_TENSORS = {
    "shape": (request_of(tensor(*[0] * 12, shape=[3, 2, 2])), "expected [-1, 3, 2, 2]"),
    "another size": (request_of(tensor(*[0] * 12, shape=[1, 3, 4, 1])), "has shape [1, 3, 4, 1]"),
    "too few": (
        request_of(tensor(*[0] * 11, shape=[1, 3, 2, 2])),
        "11 elements; its shape requires 12",
    ),
    "text": (request_of(tensor(*["0"] * 12)), "has '0', which is not a 32-bit number"),
    "bytes": (binary(tensor(*[0] * 24), ZEROS), "has 48 bytes; 2 rows take 96"),
    "half a row": (
        {"content": ZEROS + ZEROS[:4], "headers": {"Inference-Header-Content-Length": "0"}},
        "has 52 bytes; 1 rows take 48",
    ),
    "less than a row": (
        {"content": ZEROS[:-4], "headers": {"Inference-Header-Content-Length": "0"}},
        "has no rows",
    ),
}


@pytest.mark.parametrize(("request_", "message"), REFUSED.values(), ids=REFUSED)
async def test_malformed_request_is_refused(
    classifier: FakeClassifier, request_: dict[str, Any], message: str
) -> None:
    async with running(classifier) as (client, _):
        assert message in error(await client.post(INFER, **request_), 400)


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
async def test_json_that_would_expand_to_gigabytes_is_refused_at_once(
    classifier: FakeClassifier, bomb: bytes
) -> None:
    body, headers = gzip.compress(bomb, 1), {"content-encoding": "gzip"}
    async with running(classifier) as (client, _):
        tracemalloc.start()
        begun = time.thread_time()
        error(await client.post(INFER, content=body, headers=headers), 400)
        seconds, (_, most) = time.thread_time() - begun, tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert seconds < 2 * slowness()
    assert most < 2**26


@pytest.mark.parametrize(("request_", "message"), REFUSED_TENSORS.values(), ids=REFUSED_TENSORS)
async def test_invalid_tensor_is_refused(
    classifier: FakeClassifier, request_: dict[str, Any], message: str
) -> None:
    async with running(classifier) as (client, _):
        assert message in error(await client.post(INFER_TENSOR, **request_), 400)


async def test_unknown_models_and_versions_are_404(classifier: FakeClassifier) -> None:
    async with running(classifier) as (client, _):
        for path in ("", "/ready", "/config", "/stats"):
            message = error(await client.get(f"/v2/models/resnet{path}"), 404)
            assert message == "unknown model 'resnet'; the models are xcit, xcit_tensor"
            message = error(await client.get(f"/v2/models/xcit/versions/4{path}"), 404)
            assert message == "unknown version '4'; model xcit has version 3"
        request = request_of(images(b"1"))
        assert "unknown model" in error(await client.post("/v2/models/x/infer", **request), 404)
        assert "/v2/nothing" in error(await client.get("/v2/nothing"), 404)


async def test_a_million_rows_are_refused_before_they_are_parsed(
    classifier: FakeClassifier,
) -> None:
    async with running(classifier) as (client, _):
        request = binary(images(shape=[10**6]), elements(b"") * 10**6)
        message = error(await client.post(INFER, **request), 413)
        assert message == "1000000 rows in one request; the maximum is 256"
        tensors = binary(tensor(shape=[10**6, 3, 2, 2]), b"")
        assert "1000000 rows" in error(await client.post(INFER_TENSOR, **tensors), 413)
    assert not classifier.batches


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_bodies_are_decompressed_up_to_a_limit(
    classifier: FakeClassifier, encoding: str
) -> None:
    deflate = gzip.compress if encoding == "gzip" else zlib.compress
    async with running(classifier, max_body_bytes=1000) as (client, _):
        for size, status in ((1000, 200), (1001, 413)):
            body = json.dumps({"inputs": [images(b"1")]}).encode().ljust(size)
            async with asyncio.timeout(
                2
            ):  # the answer comes at once, without waiting for more input
                response = await client.post(
                    INFER, content=deflate(body), headers={"content-encoding": encoding}
                )
            assert response.status_code == status, response.text
    assert "the decompressed body exceeds the maximum of 1000 bytes" in error(response, 413)


async def test_all_rows_are_admitted_or_none(classifier: FakeClassifier) -> None:
    async with running(classifier, max_queue_size=4, max_batch_size=2) as (client, _):
        classifier.gate.clear()
        waiting = [asyncio.create_task(client.post("/predict", content=b"1")) for _ in range(2)]
        await until(lambda: bool(classifier.batches))
        response = await client.post(INFER, **request_of(images(b"1", b"2", b"3")))
        assert "images are being served" in error(response, 503)
        assert int(response.headers["retry-after"]) >= 1
        fits = asyncio.create_task(client.post(INFER, **request_of(TWO)))
        await until(lambda: sum(map(len, classifier.batches)) + 1 >= 2)
        classifier.gate.set()
        assert (await fits).is_success
        assert [(await one).status_code for one in waiting] == [200, 200]
        response = await client.post(INFER, **request_of(images(*[b"1"] * 5)))
        assert "5 rows in one request; the maximum is 4" in error(response, 413)
        assert (await client.post(INFER, **request_of(images(*[b"1"] * 4)))).is_success
