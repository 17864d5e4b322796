"""The Open Inference Protocol over ASGI, on a fake classifier: what is told, what is refused."""

import asyncio
import base64
import gzip
import json
import struct
import time
import tracemalloc
import zlib
from array import array
from typing import Any

import httpx
import pytest

from app.http.api_keys import new_key
from tests.yardstick import slowness

from .conftest import FakeClassifier, running, starting, until

pytestmark = pytest.mark.anyio

INFER = "/v2/models/xcit/infer"
INFER_TENSOR = "/v2/models/xcit_tensor/infer"


def error(response: httpx.Response, status: int) -> str:
    """The error as clients of the protocol read it; the problem document says the same."""
    assert response.status_code == status, response.text
    body = response.json()
    assert body["error"] == body["detail"]
    assert body["status"] == status
    return str(body["error"])


def elements(*contents: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(content)) + content for content in contents)


def images(*contents: bytes, shape: list[Any] | None = None, **changes: Any) -> dict[str, Any]:
    """An input of images, as JSON has it."""
    data = [base64.b64encode(content).decode() for content in contents]
    shape = [len(data)] if shape is None else shape
    return {"name": "image", "shape": shape, "datatype": "BYTES", "data": data} | changes


def tensor(*numbers: Any, shape: list[int] | None = None, **changes: Any) -> dict[str, Any]:
    shape = [len(numbers) // 12, 3, 2, 2] if shape is None else shape
    return {"name": "input", "shape": shape, "datatype": "FP32", "data": [*numbers]} | changes


def binary(given: dict[str, Any], content: bytes, size: Any = None, **more: Any) -> dict[str, Any]:
    """A request whose input follows its JSON."""
    given = {name: value for name, value in given.items() if name != "data"}
    given["parameters"] = {"binary_data_size": len(content) if size is None else size}
    header = json.dumps({"inputs": [given], **more}).encode()
    length = {"Inference-Header-Content-Length": str(len(header))}
    return {"content": header + content, "headers": length}


async def test_the_server_and_its_models_are_told(classifier: FakeClassifier) -> None:
    async with running(classifier) as (client, _):
        server = (await client.get("/v2")).json()
        assert server["name"] == "xcit-serve"
        assert server["extensions"] == [
            "binary_tensor_data",
            "classification",
            "model_configuration",
            "statistics",
        ]
        index = (await client.post("/v2/repository/index")).json()
        assert [(model["name"], model["version"]) for model in index] == [
            ("xcit", "3"),
            ("xcit_tensor", "3"),
        ]
        for path in ("/v2/models/xcit_tensor", "/v2/models/xcit_tensor/versions/3"):
            assert (await client.get(path)).json() == {
                "name": "xcit_tensor",
                "versions": ["3"],
                "platform": "fake",
                "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 3, 2, 2]}],
                "outputs": [
                    {"name": "logits", "datatype": "FP32", "shape": [-1, 10]},
                    {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
                ],
            }
            assert (await client.get(f"{path}/ready")).json()["ready"] is True
            config = (await client.get(f"{path}/config")).json()
            assert config["max_batch_size"] == 256
            assert config["input"] == [
                {
                    "name": "input",
                    "data_type": "TYPE_FP32",
                    "format": "FORMAT_NCHW",
                    "dims": [3, 2, 2],
                }
            ]
        (given,) = (await client.get("/v2/models/xcit")).json()["inputs"]
        assert given == {"name": "image", "datatype": "BYTES", "shape": [-1, 1]}


async def test_health_follows_the_life_of_the_service(classifier: FakeClassifier) -> None:
    def load() -> FakeClassifier:
        assert classifier.gate.wait(10)
        return classifier

    classifier.gate.clear()
    paths = ("/v2/health/ready", "/v2/models/xcit/ready")
    async with starting(load) as (client, lifecycle):
        assert [(await client.get(path)).status_code for path in paths] == [503, 503]
        assert (await client.get("/v2/health/live")).json() == {"live": True}
        assert "loading" in error(await client.get("/v2/models/xcit"), 503)
        assert "loading" in error(await client.post(INFER, json={"inputs": [images(b"1")]}), 503)
        classifier.gate.set()
        await until(lambda: lifecycle.ready)
        assert [(await client.get(path)).status_code for path in paths] == [200, 200]
        lifecycle.fail("the device is lost")
        assert (await client.get("/v2/health/live")).json() == {"live": False}


async def test_rows_are_answered_in_order_as_json(classifier: FakeClassifier) -> None:
    async with running(classifier) as (client, _):
        request = {"id": "seven", "inputs": [images(b"3", b"7")]}
        response = await client.post(INFER, json=request)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("seven", "xcit", "3")
    logits, probabilities = answer["outputs"]
    assert (logits["name"], logits["datatype"], logits["shape"]) == ("logits", "FP32", [2, 10])
    assert logits["data"] == [*range(10)] * 2
    assert probabilities["shape"] == [2, 10]
    rows = probabilities["data"][:10], probabilities["data"][10:]
    assert [row.index(max(row)) for row in rows] == [3, 7]


@pytest.mark.parametrize("shape", [[2], [2, 1]])
async def test_images_behind_the_json_and_outputs_behind_theirs(
    classifier: FakeClassifier, shape: list[int]
) -> None:
    outputs: list[dict[str, Any]] = [
        {"name": "probabilities", "parameters": {"binary_data": True}},
        {"name": "logits", "parameters": {"classification": 2, "binary_data": True}},
        {"name": "logits2"},
    ]
    request = binary(images(shape=shape), elements(b"3", b"7"), outputs=outputs[:2])
    async with running(classifier) as (client, _):
        response = await client.post(INFER, **request)
        unknown = binary(images(shape=shape), elements(b"3", b"7"), outputs=outputs)
        assert "unknown output 'logits2'" in error(await client.post(INFER, **unknown), 400)
    assert response.status_code == 200, response.text
    length = int(response.headers["Inference-Header-Content-Length"])
    header, content = json.loads(response.content[:length]), response.content[length:]
    assert "id" not in header
    first, second = header["outputs"]
    assert first["parameters"] == {"binary_data_size": 2 * 10 * 4}
    scores = array("f", content[:80])
    assert scores[3] == scores[17] == pytest.approx(0.9)
    assert (second["datatype"], second["shape"]) == ("BYTES", [2, 2])
    expected = elements(
        b"3.000000:3:class_3", b"0.000000:0:class_0", b"7.000000:7:class_7", b"0.000000:0:class_0"
    )
    assert content[80:] == expected
    assert second["parameters"] == {"binary_data_size": len(expected)}


async def test_tensors_come_as_json_nested_or_flat_or_as_bytes(classifier: FakeClassifier) -> None:
    flat = [4.0] + [0.0] * 11 + [5.0] + [0.0] * 11
    nested = [[[flat[i : i + 2], flat[i + 2 : i + 4]] for i in (j, j + 4, j + 8)] for j in (0, 12)]
    content = array("f", flat).tobytes()
    zero = {"Inference-Header-Content-Length": "0"}
    raw: dict[str, Any] = {"content": content, "headers": zero}
    requests: list[dict[str, Any]] = [
        {"json": {"inputs": [tensor(*flat)]}},
        {"json": {"inputs": [tensor(*nested, shape=[2, 3, 2, 2])]}},
        binary(tensor(*flat), content),
        raw,
    ]
    async with running(classifier) as (client, _):
        for request in requests:
            response = await client.post(INFER_TENSOR, **request)
            assert response.status_code == 200, response.text
            data = response.json()["outputs"][1]["data"]
            assert (data[4], data[15]) == pytest.approx((0.9, 0.9))
        raw["content"] = b"6"  # one image, without its length
        response = await client.post("/v2/models/xcit/versions/3/infer", **raw)
        assert response.json()["outputs"][1]["data"][6] == pytest.approx(0.9)


def request_of(*inputs: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"json": {"inputs": [*inputs], **more}}


JUNK = b"{" * 100
ZEROS = array("f", [0.0] * 12).tobytes()
TWO = images(b"1", b"2")
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no JSON": ({"content": JUNK}, "not an inference request: body: Invalid JSON"),
    "nothing": ({"content": b""}, "not an inference request"),
    "no inputs": ({"json": {}}, "inputs: Field required"),
    "not one input": (request_of(), "0 inputs; xcit has one"),
    "two inputs": (request_of(TWO, TWO), "2 inputs; xcit has one"),
    "name": (request_of(images(b"1", name="img")), "unknown input 'img'; xcit has 'image'"),
    "dtype": (request_of(images(b"1", datatype="UINT8")), "is 'UINT8'; xcit takes BYTES"),
    "shape": (request_of(images(b"1", shape=[1, 2])), "has shape [1, 2]; expected [-1, 1]"),
    "no shape": (request_of(images(b"1", shape=[])), "has shape []"),
    "negative shape": (request_of(images(b"1", shape=[-1])), "shape.0: must be greater"),
    "shape of text": (request_of(images(b"1", shape=["1"])), "shape.0: must be a valid"),
    "no rows": (request_of(images(shape=[0])), "has no rows"),
    "too few": (request_of(images(b"1", shape=[2])), "holds 1 elements; its shape has 2"),
    "a number": (request_of(images(data=[1], shape=[1])), "a string of base64, and not 1"),
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
        "classification is 11; it must be a number from 1 to 10",
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
        "parameter 'shared_memory_region' is of an extension that is not supported",
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
        "3 bytes of JSON are declared; the body has 2",
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
        "is not whole",
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
    "too few": (request_of(tensor(*[0] * 11, shape=[1, 3, 2, 2])), "11 elements; its shape has 12"),
    "text": (request_of(tensor(*["0"] * 12)), "has '0', which is not a number"),
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
async def test_what_is_no_request_is_refused(
    classifier: FakeClassifier, request_: dict[str, Any], message: str
) -> None:
    async with running(classifier) as (client, _):
        assert message in error(await client.post(INFER, **request_), 400)


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
async def test_json_that_stands_for_gigabytes_is_refused_at_once(
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
async def test_what_is_no_tensor_is_refused(
    classifier: FakeClassifier, request_: dict[str, Any], message: str
) -> None:
    async with running(classifier) as (client, _):
        assert message in error(await client.post(INFER_TENSOR, **request_), 400)


async def test_models_and_versions_that_are_not_there_are_told(classifier: FakeClassifier) -> None:
    async with running(classifier) as (client, _):
        for path in ("", "/ready", "/config", "/stats"):
            told = error(await client.get(f"/v2/models/resnet{path}"), 404)
            assert told == "unknown model 'resnet'; the models are xcit, xcit_tensor"
            told = error(await client.get(f"/v2/models/xcit/versions/4{path}"), 404)
            assert told == "model xcit has version 3 and no version '4'"
        request = request_of(images(b"1"))
        assert "unknown model" in error(await client.post("/v2/models/x/infer", **request), 404)
        assert "/v2/nothing" in error(await client.get("/v2/nothing"), 404)


async def test_a_million_rows_are_refused_before_they_are_looked_at(
    classifier: FakeClassifier,
) -> None:
    async with running(classifier) as (client, _):
        request = binary(images(shape=[10**6]), elements(b"") * 10**6)
        told = error(await client.post(INFER, **request), 413)
        assert told == "1000000 rows in one request; at most 256 are accepted"
        tensors = binary(tensor(shape=[10**6, 3, 2, 2]), b"")
        assert "1000000 rows" in error(await client.post(INFER_TENSOR, **tensors), 413)
    assert not classifier.batches


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_bodies_are_inflated_up_to_a_limit(classifier: FakeClassifier, encoding: str) -> None:
    deflate = gzip.compress if encoding == "gzip" else zlib.compress
    async with running(classifier, max_body_bytes=1000) as (client, _):
        for size, status in ((1000, 200), (1001, 413)):
            body = json.dumps({"inputs": [images(b"1")]}).encode().ljust(size)
            async with asyncio.timeout(2):  # it is answered at once: nothing more is to come
                response = await client.post(
                    INFER, content=deflate(body), headers={"content-encoding": encoding}
                )
            assert response.status_code == status, response.text
    assert "inflates to over 1000 bytes" in error(response, 413)


async def test_rows_get_their_places_at_once_or_none(classifier: FakeClassifier) -> None:
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
        assert "5 rows in one request; at most 4" in error(response, 413)
        assert (await client.post(INFER, **request_of(images(*[b"1"] * 4)))).is_success


async def test_both_models_and_predict_share_batches(classifier: FakeClassifier) -> None:
    async with running(classifier) as (client, _):
        classifier.gate.clear()
        first = asyncio.create_task(client.post("/predict", content=b"0"))
        await until(lambda: len(classifier.batches) == 1)
        rest = [
            asyncio.create_task(client.post("/predict", content=b"1")),
            asyncio.create_task(client.post(INFER, **request_of(images(b"2", b"3")))),
            asyncio.create_task(client.post(INFER_TENSOR, **request_of(tensor(4, *[0] * 11)))),
        ]
        async with asyncio.timeout(10):
            while (await client.get("/healthz")).json()["queue_depth"] < 4:
                await asyncio.sleep(0.01)
        classifier.gate.set()
        await asyncio.gather(first, *rest)
    assert sorted(classifier.batches[1]) == [b"1", b"2", b"3", b"4"]


async def test_a_timeout_in_microseconds_is_kept(classifier: FakeClassifier) -> None:
    async with running(classifier) as (client, _):
        classifier.gate.clear()
        slow = request_of(images(b"1"), parameters={"timeout": 50_000})
        assert "not answered within 0.05 s" in error(await client.post(INFER, **slow), 504)
        classifier.gate.set()
        unlimited = request_of(images(b"1"), parameters={"timeout": 0})
        assert (await client.post(INFER, **unlimited)).is_success


async def test_what_was_done_is_counted(classifier: FakeClassifier) -> None:
    async with running(classifier) as (client, _):
        await client.post(INFER, **request_of(images(b"1", b"2")))
        await client.post(INFER, **request_of(images(b"bad")))
        await client.post("/predict", content=b"1")
        (stats,) = (await client.get("/v2/models/xcit/stats")).json()["model_stats"]
        (others,) = (await client.get("/v2/models/xcit_tensor/stats")).json()["model_stats"]
        both = (await client.get("/v2/models/stats")).json()["model_stats"]
    assert both == [stats, others]
    assert stats["inference_count"] == 3
    assert stats["execution_count"] == len(classifier.batches)
    assert stats["last_inference"] > 1e12
    counts = {name: duration["count"] for name, duration in stats["inference_stats"].items()}
    assert counts.pop("fail") == 1
    assert set(counts.values()) == {1}
    assert stats["inference_stats"]["success"]["ns"] > 1000
    assert {duration["count"] for duration in others["inference_stats"].values()} == {0}


async def test_an_inference_needs_a_key_where_predictions_do(
    classifier: FakeClassifier, tmp_path: Any
) -> None:
    key, line = new_key("alice")
    (tmp_path / "keys").write_text(line)
    async with running(classifier, api_keys_file=tmp_path / "keys") as (client, _):
        request = request_of(images(b"1"))
        assert "key" in error(await client.post(INFER, **request), 401)
        headers = {"Authorization": f"Bearer {key}"}
        assert (await client.post(INFER, **request, headers=headers)).is_success
        assert (await client.get("/v2/models/xcit")).is_success
