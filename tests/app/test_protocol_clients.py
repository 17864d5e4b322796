"""Recorded requests of the protocol's clients; see ``scripts/golden_clients.py``."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import FakeClassifier, running
from .oip_messages import INFER, TWO, error, request_of

pytestmark = pytest.mark.anyio

GOLDEN = json.loads((Path(__file__).parent / "golden" / "clients.json").read_text())["requests"]
HEADER_LENGTH = "Inference-Header-Content-Length"


@pytest.mark.parametrize(
    "golden", GOLDEN, ids=[f"{one['client']}: {one['request']}" for one in GOLDEN]
)
async def test_answer_can_be_read_by_the_client(
    classifier: FakeClassifier, golden: dict[str, Any]
) -> None:
    async with running(classifier) as (client, _):
        body = base64.b64decode(golden["body"])
        response = await client.post(golden["url"], content=body, headers=golden["headers"])
    assert response.status_code == 200, response.text
    length = int(response.headers.get(HEADER_LENGTH, len(response.content)))
    assert json.loads(response.content[:length]) == golden["answer"]


NULLS: dict[str, dict[str, Any]] = {
    "id": {"id": None},
    "parameters": {"parameters": None},
    "outputs": {"outputs": None},
    "timeout": {"parameters": {"timeout": None}},
    "binary output": {"parameters": {"binary_data_output": None}},
    "sequence": {"parameters": {"sequence_id": None, "shared_memory_region": None}},
    "parameters of the input": {"inputs": [{**TWO, "parameters": None}]},
    "binary size": {"inputs": [{**TWO, "parameters": {"binary_data_size": None}}]},
    "members that nobody knows": {"model_version": None, "inputz": None, "top_k": None},
    "members of the input": {"inputs": [{**TWO, "raw_data": None, "dat": None}]},
    "parameters of outputs": {"outputs": [{"name": "logits", "parameters": None}]},
    "what outputs are asked for": {
        "outputs": [
            {
                "name": "logits",
                "parameters": {"classification": None, "binary_data": None, "shape": None},
            }
        ]
    },
}


@pytest.mark.parametrize("more", NULLS.values(), ids=NULLS)
async def test_null_members_are_ignored(classifier: FakeClassifier, more: dict[str, Any]) -> None:
    async with running(classifier) as (client, _):
        response = await client.post(INFER, json={"inputs": [TWO], **more})
        plain = (await client.post(INFER, **request_of(TWO))).json()
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["outputs"][0] == plain["outputs"][0]
    assert answer.keys() == plain.keys()


ADDED: list[dict[str, Any]] = [
    {"model_name": "xcit"},
    {"model_version": "1", "from_grpc": False},
    {"parameters": {"content_type": "base64", "headers": {"authorization": "x" * 300}}},
    {"inputs": [{**TWO, "contents": {"bytes_contents": []}, "parameters": {"content_type": "b"}}]},
    {"raw_input_contents": []},
    {"priority": 3, "metadata": {"a": [1, 2, 3] * 1000, "b": "c" * 5000}},
]


@pytest.mark.parametrize("padding", [0, 100_000], ids=["small", "large"])
@pytest.mark.parametrize("more", ADDED)
async def test_members_that_clients_add_are_ignored(
    classifier: FakeClassifier, more: dict[str, Any], padding: int
) -> None:
    """In small bodies, and in large ones that are parsed in steps."""
    request = {"id": "i" * 200, "inputs": [TWO], "note": "n" * padding, **more}
    async with running(classifier) as (client, _):
        response = await client.post(INFER, content=json.dumps(request, indent=1))
        assert response.status_code == 200, response.text
        assert response.json()["id"] == "i" * 200


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"output": []}, "unknown member 'output'; did you mean outputs?"),
    ({"Inputs": []}, "unknown member 'Inputs'; did you mean inputs?"),
    ({"parameter": {}}, "unknown member 'parameter'; did you mean parameters?"),
    ({"inputs": [{**TWO, "dtype": "BYTES"}]}, "unknown member 'dtype'; did you mean datatype?"),
    ({"outputs": [{"name": "logits", "params": {}}]}, "unknown member 'params'; did you mean para"),
    (
        {"top_k": 3},
        'top_k is not part of the protocol; give an output the parameter {"classification": n}',
    ),
    ({"parameters": {"top_k": 3}}, "top_k is not part of the protocol"),
    (
        {"outputs": [{"name": "logits", "parameters": {"topk": 3}}]},
        "topk is not part of the protocol",
    ),
    (
        {"a": 0} | {f"a{i}": i for i in range(16)},
        "has over 16 unknown members",
    ),
    ({"outputs": [{"name": "logits"}] * 17}, "outputs: List should have at most 16 items"),
    ({"id": "i" * 1001}, "id: String should have at most 1000 characters"),
]


@pytest.mark.parametrize("padding", [0, 100_000], ids=["small", "large"])
@pytest.mark.parametrize(("more", "message"), MISTAKES)
async def test_members_that_look_like_mistakes_are_refused(
    classifier: FakeClassifier, more: dict[str, Any], message: str, padding: int
) -> None:
    request = {"inputs": [TWO], "note": "n" * padding, **more}
    async with running(classifier) as (client, _):
        response = await client.post(INFER, json=request)
        assert message in error(response, 400)
