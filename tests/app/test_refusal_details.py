"""Details of refusals contain no Python notation, for any request."""

import json
import re
from itertools import product
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from . import oip_messages, test_forms, test_oip_refusals, test_predict, test_protocol_clients
from .conftest import FakeClassifier, running
from .test_cloud import vertex

pytestmark = pytest.mark.anyio

PYTHONS = re.compile(
    r"""(?<!["'])\bb['"]|['"]\\x|<class|<[\w.]+ object|\bobject at 0x"""
    r"""|\{'\w*':|\['\w*'[,\]]|\('\w*'[,)]|\bNone\b|\bTrue\b|\bFalse\b"""
    r"""|Traceback|\w+(Error|Exception)\b|\bNoneType\b|\bdict\b|\bstr\b|\btuple\b|function-"""
)
VALUES: list[Any] = [
    *("\x1b[31m", "\ud800", "'", '"', "{}", "%s", "{0}", "x" * 5000, "é" * 200),
    *(None, True, False, 0, -1, 1.5, 1e300, 10**30),
    *([], {}, [None], [True, {"a": None}], {"a": "b"}),
]
PREDICT = "/predict"
INFER = oip_messages.INFER
VERTEX = "/vertex"
HEADER_LENGTH = "inference-header-content-length"
LINES = [value for value in VALUES if isinstance(value, str) and value.isascii()]


def check(response: httpx.Response) -> None:
    if response.status_code < 400:
        return
    assert response.status_code < 500, response.text
    detail = response.json()["detail"]
    assert not PYTHONS.search(detail), detail
    assert detail.isprintable(), ascii(detail)
    assert len(detail) < 500
    assert response.json().get("error", detail) == detail


def test_pattern_detects_python_notation() -> None:
    for value in (b"a", {"a": 1}, ["a"], None, True, object(), int, ValueError("a"), ("a",)):
        assert PYTHONS.search(f"it is {value!r}"), value
    assert not PYTHONS.search("""not {"image": "<base64>"}: it is 'a', [1], ["a"], null or true""")


async def test_no_known_refusal_contains_python_notation(classifier: FakeClassifier) -> None:
    requests: list[tuple[str, dict[str, Any]]] = [
        *((PREDICT, body) for body, _ in test_predict.BAD_REQUESTS.values()),
        *((PREDICT, body) for body, _ in test_forms.REFUSED.values()),
        *((INFER, body) for body, _ in test_oip_refusals.REFUSED.values()),
        *(
            (oip_messages.INFER_TENSOR, body)
            for body, _ in test_oip_refusals.REFUSED_TENSORS.values()
        ),
        *(
            (INFER, {"json": {"inputs": [oip_messages.TWO], **more}})
            for more, _ in test_protocol_clients.MISTAKES
        ),
    ]
    async with running(classifier) as (client, _):
        for path, body in requests:
            check(await client.post(path, **body))
            check(await client.post("/predict/batch", **body))


MARK = "?"  # replaced by strange values
TWO = oip_messages.TWO
REQUEST = {"inputs": [TWO]}
TEMPLATES: dict[str, tuple[str, Any]] = {
    "body": (INFER, MARK),
    "image": (PREDICT, {"image": MARK}),
    "top_k": (PREDICT, {"image": "MQ==", "top_k": MARK}),
    "head": ("/explain", {"image": "MQ==", "head": MARK}),
    "member": (PREDICT, {"image": "MQ==", "other": MARK}),
    "inputs": (INFER, {"inputs": MARK}),
    "input": (INFER, {"inputs": [MARK]}),
    "id": (INFER, {"id": MARK, "inputs": []}),
    "outputs": (INFER, REQUEST | {"outputs": [MARK]}),
    "output": (INFER, REQUEST | {"outputs": [{"name": MARK}]}),
    "parameters": (INFER, REQUEST | {"parameters": MARK}),
    "timeout": (INFER, REQUEST | {"parameters": {"timeout": MARK}}),
    "classes": (
        INFER,
        REQUEST | {"outputs": [{"name": "logits", "parameters": {"classification": MARK}}]},
    ),
    "binary": (
        INFER,
        REQUEST | {"outputs": [{"name": "logits", "parameters": {"binary_data": MARK}}]},
    ),
    **{
        name: (INFER, {"inputs": [TWO | {name: MARK}]})
        for name in ("name", "shape", "datatype", "data", "parameters")
    },
    "element": (INFER, {"inputs": [TWO | {"data": [MARK, "MQ=="]}]}),
    "size": (
        INFER,
        {"inputs": [TWO | {"data": None, "parameters": {"binary_data_size": MARK}}]},
    ),
    "numbers": (oip_messages.INFER_TENSOR, {"inputs": [oip_messages.tensor(*[0] * 11, MARK)]}),
    "instances": (VERTEX, {"instances": MARK}),
    "instance": (VERTEX, {"instances": [MARK]}),
    "b64": (VERTEX, {"instances": [{"b64": MARK}]}),
    "vertex top_k": (VERTEX, {"instances": [{"b64": "MQ=="}], "parameters": {"top_k": MARK}}),
}


@pytest.mark.parametrize(("path", "template"), TEMPLATES.values(), ids=TEMPLATES)
async def test_refusals_of_json_contain_no_python_notation(
    classifier: FakeClassifier, path: str, template: Any
) -> None:
    async with vertex(classifier, AIP_PREDICT_ROUTE=VERTEX) as client:
        for value in VALUES:
            text = json.dumps(template).replace(f'"{MARK}"', json.dumps(value))
            check(await client.post(path, content=text))


async def test_refusals_of_queries_and_paths_contain_no_python_notation(
    classifier: FakeClassifier,
) -> None:
    async with running(classifier) as (client, _):
        for value in LINES:
            for path, name in ((PREDICT, "top_k"), (PREDICT, value[:99]), ("/explain", "head")):
                check(await client.post(path, params={name: value[:99]}, content=b"3"))
            name = quote(value[:99], safe="")
            check(await client.post(f"/v2/models/{name}/infer", content=b"3"))
            check(await client.post(f"/v2/models/xcit/versions/{name}/infer", content=b"3"))


async def test_refusals_of_headers_contain_no_python_notation(classifier: FakeClassifier) -> None:
    names = ("content-type", "content-encoding", "x-request-timeout-ms", HEADER_LENGTH)
    values = ("\xff\x80'", "{}", "x" * 300, "multipart/form-data; b=\xff", "'")
    async with running(classifier) as (client, _):
        for name, value in product(names, values):
            headers = {name.encode(): value.encode("latin-1")}
            check(await client.post(PREDICT, content=b"3", headers=headers))
            check(await client.post(INFER, content=b"{}", headers=headers))


async def test_refusals_of_forms_contain_no_python_notation(classifier: FakeClassifier) -> None:
    lines = [b"\xff\x00'", *(json.dumps(value).encode() for value in VALUES)]
    async with running(classifier) as (client, _):
        for line in lines:
            for parts in (
                [test_forms.named(line)],
                [test_forms.part(b"\r\nContent-Transfer-Encoding: " + line)],
                [test_forms.part().replace(b'"file"', line)],
                [test_forms.part().replace(b"form-data", line)],
                [b"--x\r\n" + line + b"\r\n\r\n3\r\n"],
                [test_forms.field("top_k", line), test_forms.part()],
            ):
                check(await client.post(PREDICT, **test_forms.form(*parts)))
                check(await client.post("/predict/batch", **test_forms.form(*parts)))
