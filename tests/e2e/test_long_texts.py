"""Long texts from clients are shortened in the log, in `instance` and in `detail`."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app.http.api_keys import new_key
from tests.server_process import Server

from .conftest import SLOW_SERVICE, StartServer
from .raw import ask, codes, problem, request

pytestmark = pytest.mark.one_process("about the texts of answers and logs")

SHOWN = 256
LONG = b"x" * 63_000
CLOSE = b"Connection: close"
JSON = b"Content-Type: application/json"
FORM = b"Content-Type: multipart/form-data; boundary=b"
INFER = b"POST /v2/models/xcit/infer"
TENSOR = {"name": "image", "datatype": "FP32", "shape": [1], "data": [0]}


@pytest.fixture(scope="module")
def chatty(
    start_server: StartServer, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Server]:
    """Servers that log at debug level, by log format; and one that requires a key."""
    servers = {
        form: start_server(*SLOW_SERVICE, log_format=form, log_level="debug", cloud="vertex")
        for form in ("text", "json")
    }
    keys: Path = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(new_key("somebody")[1])
    servers["strict"] = start_server(*SLOW_SERVICE, api_keys_file=keys, allowed_hosts="y")
    return servers.__getitem__


def head(line: bytes, *fields: bytes) -> bytes:
    return request(line, CLOSE, *fields)


def post(line: bytes, body: bytes, *fields: bytes) -> bytes:
    return request(line, CLOSE, b"Content-Length: %d" % len(body), *fields, body=body)


def infer(**members: object) -> bytes:
    text = LONG.decode()
    whole = {name: text if value is LONG else value for name, value in members.items()}
    return post(INFER, json.dumps({"inputs": [TENSOR], **whole}).encode(), JSON)


def part(disposition: bytes) -> bytes:
    return b"--b\r\nContent-Disposition: form-data; " + disposition + b"\r\n\r\n0\r\n--b--\r\n"


TEXT = LONG.decode()
SENT = {
    "path": head(b"GET /" + LONG),
    "encoded path": head(b"GET /" + b"%C3%A9" * 10_000),
    "path of a model": head(b"GET /v2/models/" + LONG),
    "path of a version": head(b"GET /v2/models/xcit/versions/" + LONG),
    "path of the protocol": head(b"GET /v2/" + LONG),
    "query": head(b"POST /livez?" + LONG),
    "unknown parameter": head(b"POST /predict?" + LONG + b"=1"),
    "parameter": head(b"POST /predict?top_k=" + b"9" * 63_000),
    "timeout": head(b"POST /predict", b"X-Request-Timeout-Ms: " + b"9" * 63_000),
    "key": head(b"POST /predict", b"X-API-Key: " + LONG),
    "coding": head(b"POST /predict", b"Content-Encoding: " + LONG),
    "type": post(b"POST /predict/batch", b"0", b"Content-Type: " + LONG),
    "boundary": post(b"POST /predict", b"0", FORM + LONG),
    "length of tensors": post(INFER, b"0", b"Inference-Header-Content-Length: " + b"9" * 63_000),
    "request id": head(b"GET /nowhere", b"X-Request-ID: " + LONG),
    "origin": head(b"POST /predict", b"Origin: http://" + LONG),
    "host": b"GET /livez HTTP/1.1\r\nHost: " + b"/" * 63_000 + b"\r\n\r\n",
    "field": head(b"GET /nowhere", LONG + b": y"),
    "method": LONG + b" /livez HTTP/1.1\r\nHost: x\r\n\r\n",
    "version": b"GET /livez " + LONG + b"\r\nHost: x\r\n\r\n",
    "name of a part": post(b"POST /predict", part(b'name="%s"' % LONG), FORM),
    "field of a form": post(b"POST /predict", part(b'name="top_k"') * 1 + LONG, FORM),
    "member": post(b"POST /predict", json.dumps({TEXT: 1}).encode(), JSON),
    "image": post(b"POST /predict", json.dumps({"image": "!" + TEXT}).encode(), JSON),
    "image as data": post(b"POST /predict", json.dumps({"image": f"data:{TEXT}"}).encode(), JSON),
    "no JSON": post(b"POST /predict", b"{" + LONG, JSON),
    "member of inference": infer(**{TEXT: 1}),
    "name of a tensor": infer(inputs=[{**TENSOR, "name": TEXT}]),
    "type of a tensor": infer(inputs=[{**TENSOR, "datatype": TEXT}]),
    "shape of a tensor": infer(inputs=[{**TENSOR, "shape": [TEXT]}]),
    "data of a tensor": infer(inputs=[{**TENSOR, "data": [TEXT]}]),
    "member of a tensor": infer(inputs=[{**TENSOR, TEXT: 1}]),
    "name of an output": infer(outputs=[{"name": TEXT}]),
    "parameter of inference": infer(parameters={TEXT: TEXT, "top_k": TEXT}),
    "id of inference": infer(id=LONG, inputs=[]),
    "instance": post(b"POST /predict", json.dumps({"instances": [{TEXT: TEXT}]}).encode(), JSON),
    "head": post(b"POST /explain?head=" + LONG, b"0"),
}


@pytest.mark.parametrize("kind", ["text", "json", "strict"])
@pytest.mark.parametrize("what", SENT)
def test_long_client_texts_are_shortened(
    chatty: Callable[[str], Server], kind: str, what: str
) -> None:
    server = chatty(kind)
    before = len(server.log.read_bytes())
    answer = ask(server, SENT[what])
    assert 400 <= codes(answer)[0] < 500
    assert len(answer) < 4_000
    told = problem(answer)
    assert len(str(told["instance"])) <= SHOWN
    assert longest_run(str(told["detail"])) <= SHOWN
    assert len(str(told["detail"])) <= 1024
    time.sleep(0.02)
    for line in server.log.read_bytes()[before:].decode().splitlines():
        assert longest_run(line) <= SHOWN
        assert len(line) < 13 * SHOWN, "as \\u00e9 each character takes six"


def longest_run(text: str) -> int:
    """The length of the longest run of one character."""
    return max((len(run[0]) for run in re.finditer(r"(.)\1*", text)), default=0)
