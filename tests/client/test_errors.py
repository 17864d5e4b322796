"""The errors that the clients raise."""

import pickle
from typing import Any

import httpx
import pytest
from xcit_client import (
    NO_RETRIES,
    AsyncClient,
    Client,
    DeadlineExceeded,
    ImageRefused,
    InvalidOption,
    ServiceError,
    TimedOut,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
    UnreadableImage,
)

from tests.app.conftest import FakeClassifier

from .conftest import ANSWER, Script, problem
from .served import served

pytestmark = pytest.mark.anyio


async def test_errors_have_the_members_of_the_problem_document(classifier: FakeClassifier) -> None:
    async with served(classifier) as client:
        with pytest.raises(ImageRefused) as caught:
            await client.predict(b"bad")
        with pytest.raises(ServiceError, match="from 1 to 10") as parameter:
            await client.predict(b"3", top_k=11)
        with pytest.raises(UnreadableImage, match="the image is empty"):
            await client.predict(b"")
    error = caught.value
    assert (error.status, error.type) == (400, "/problems/invalid-image")
    assert (error.title, error.detail, str(error)) == ("Invalid image", *["it does not decode"] * 2)
    assert error.request_id
    assert error.retry_after is None
    assert (type(parameter.value), parameter.value.status) == (ServiceError, 422)


BY_PROBLEM = [
    (400, "bad-request", ServiceError),
    (400, "invalid-image", ImageRefused),
    (401, "unauthorized", Unauthorized),
    (413, "body-too-large", ImageRefused),
    (413, "image-too-large", ImageRefused),
    (415, "unsupported-media-type", ImageRefused),
    (422, "invalid-parameter", ServiceError),
    (429, "too-many-requests", Unavailable),
    (500, "internal-error", ServiceError),
    (503, "overloaded", Unavailable),
    (504, "deadline-exceeded", DeadlineExceeded),
]


@pytest.mark.parametrize(("status", "name", "kind"), BY_PROBLEM, ids=lambda value: str(value))
async def test_each_problem_raises_its_error_type(
    status: int, name: str, kind: type[ServiceError]
) -> None:
    script = Script(problem(status, name, {"Retry-After": "7"}))
    with Client("http://x", retries=NO_RETRIES, transport=script) as client:
        with pytest.raises(ServiceError) as caught:
            client.predict(b"3")
        with pytest.raises(ServiceError) as of_picture:
            client.explain(b"3")
    error = caught.value
    assert type(error) is type(of_picture.value) is kind
    assert (error.status, error.type, error.request_id) == (status, f"/problems/{name}", "7")
    assert (error.detail, error.retry_after) == (f"{name}: do otherwise", 7.0)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), vars(again)) == (kind, vars(error))


STRANGERS: dict[str, tuple[httpx.Response, str]] = {
    "a page": (httpx.Response(200, html="<h1>Welcome</h1>"), "answered with text/html"),
    "other JSON": (httpx.Response(200, json={"hello": "world"}), "that is not a"),
    "a list": (httpx.Response(200, json=[1]), "that is not a"),
    "a number": (httpx.Response(200, json=1), "that is not a"),
    "no JSON": (
        httpx.Response(200, content=b"{", headers={"Content-Type": "application/json"}),
        "that is not a",
    ),
    "no UTF-8": (httpx.Response(200, content=b"\xff\xfe\xfd"), "answered with no type"),
    "half an answer": (httpx.Response(200, json={**ANSWER, "model": {}}), "that is not a"),
    "a bad row": (httpx.Response(200, json={**ANSWER, "predictions": [3]}), "that is not a"),
    "an error page": (httpx.Response(502, html="<h1>Bad Gateway</h1>"), "answered 502 without a"),
    "an error of others": (httpx.Response(418, json={"error": "teapot"}), "answered 418 without"),
    "elsewhere": (
        httpx.Response(308, headers={"Location": "https://x/"}),
        "redirects to https://x/; use that URL",
    ),
}


@pytest.mark.parametrize(("answer", "message"), STRANGERS.values(), ids=STRANGERS)
async def test_answers_of_other_servers_are_detected(answer: httpx.Response, message: str) -> None:
    with Client("http://x", retries=NO_RETRIES, transport=Script(answer)) as client:
        for ask in (client.health, lambda: client.predict(b"3"), lambda: client.explain(b"3")):
            with pytest.raises(UnexpectedAnswer, match="http://x/") as caught:
                ask()
            assert message in str(caught.value)
            assert caught.value.status == answer.status_code


async def test_network_errors_raise_their_error_types() -> None:
    turns = {
        httpx.ConnectError("refused"): (Unreachable, "cannot reach http://x: refused; is the"),
        httpx.ConnectTimeout(""): (Unreachable, "cannot reach http://x: no connection within 3 s"),
        httpx.ReadTimeout(""): (TimedOut, "http://x did not answer within 3 s"),
        httpx.ReadError("reset"): (Unreachable, "to http://x broke before the answer: reset"),
    }
    for turn, (kind, message) in turns.items():
        client = Client("http://x/", timeout=3, retries=NO_RETRIES, transport=Script(turn))
        with client, pytest.raises(kind) as caught:
            client.predict(b"3")
        assert message in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        *("", "localhost:8000", "ftp://x", "http://", "http://x:port", "http://x:99999"),
        *("http://x?a=b", "http://x#a", "http://me:secret@x", "//x", "http://a b"),
    ],
)
def test_invalid_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidOption, match="URL"):
        Client(url)
    with pytest.raises(ValueError, match="URL"):
        AsyncClient(url)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"timeout": 0}, "timeout is 0; expected more than 0 seconds"),
        ({"timeout": float("inf")}, "timeout is inf"),
        ({"api_key": ""}, "the API key must be one or more printable"),
        ({"api_key": "a\nb"}, "the API key must be one or more printable"),
        ({"api_key": "schlüssel"}, "the API key must be one or more printable"),
    ],
    ids=lambda value: str(value),
)
def test_invalid_options_are_refused(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        Client("http://x", **choices)
