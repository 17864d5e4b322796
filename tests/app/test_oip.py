"""The Open Inference Protocol on a fake classifier: metadata, inference and statistics."""

import asyncio
import json
from array import array
from typing import Any

import pytest

from app.http.api_keys import new_key

from .conftest import FakeClassifier, running, starting, until
from .oip_messages import (
    INFER,
    INFER_TENSOR,
    binary,
    elements,
    error,
    images,
    request_of,
    tensor,
)

pytestmark = pytest.mark.anyio


async def test_server_and_model_metadata(classifier: FakeClassifier) -> None:
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
                "parameters": {"temperature": 1.5},
            }
            assert (await client.get(f"{path}/ready")).json()["ready"] is True
            config = (await client.get(f"{path}/config")).json()
            assert config["max_batch_size"] == 256
            assert config["parameters"] == {"temperature": {"string_value": "1.5"}}
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


async def test_health_follows_the_state_of_the_service(classifier: FakeClassifier) -> None:
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
async def test_binary_inputs_and_outputs_follow_the_json(
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


async def test_tensors_are_read_from_nested_json_flat_json_and_bytes(
    classifier: FakeClassifier,
) -> None:
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


async def test_timeout_in_microseconds_is_applied(classifier: FakeClassifier) -> None:
    async with running(classifier) as (client, _):
        classifier.gate.clear()
        slow = request_of(images(b"1"), parameters={"timeout": 50_000})
        assert "not answered within 0.05 s" in error(await client.post(INFER, **slow), 504)
        classifier.gate.set()
        unlimited = request_of(images(b"1"), parameters={"timeout": 0})
        assert (await client.post(INFER, **unlimited)).is_success


async def test_statistics_count_inferences(classifier: FakeClassifier) -> None:
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


async def test_inference_requires_a_key_if_keys_are_configured(
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
