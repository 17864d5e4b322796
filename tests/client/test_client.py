"""Both clients: of the application itself, and of services that are scripted or none at all."""

import asyncio
import pickle
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from xcit_client import (
    NO_RETRIES,
    AsyncClient,
    Client,
    ClientError,
    DeadlineExceeded,
    Health,
    ImageRefused,
    InvalidOption,
    Model,
    Prediction,
    Row,
    ServedModel,
    ServiceError,
    TimedOut,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
    UnreadableImage,
)
from xcit_client.images import ImageLike

from app.http import schemas
from app.http.api_keys import new_key
from app.http.app import create_app
from app.serving.classifier import ModelInfo
from app.serving.lifecycle import Lifecycle, State
from tests.app.conftest import FakeClassifier, make_settings, until
from tests.servers import Predictions

from .conftest import ANSWER, HASTY, Script, Turn, countdown, good, problem

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def served(
    classifier: FakeClassifier, api_key: str | None = None, **choices: Any
) -> AsyncIterator[AsyncClient]:
    """A client of the whole application on a fake classifier."""
    lifecycle = Lifecycle()
    app = create_app(make_settings(**choices), lambda: classifier, lifecycle=lifecycle)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        AsyncClient("http://service", api_key, retries=NO_RETRIES, transport=transport) as client,
    ):
        await until(lambda: lifecycle.state is not State.LOADING)
        yield client


@pytest.fixture
def classifier() -> FakeClassifier:
    return FakeClassifier()


async def test_a_prediction_has_model_rows_timings_and_id(classifier: FakeClassifier) -> None:
    async with served(classifier) as client:
        prediction = await client.predict(b"3", top_k=2)
    assert prediction.model == Model("fake", "3")
    assert prediction.rows == (Row(3, "class_3", 0.9), Row(0, "class_0", 0.45))
    assert prediction.best == prediction.rows[0]
    assert {"read", "preprocess", "queue", "inference", "total"} == set(prediction.timings)
    assert 0 <= prediction.timings["inference"] <= prediction.timings["total"] < 10_000
    assert prediction.request_id


async def test_the_health_of_the_service_is_told(classifier: FakeClassifier) -> None:
    async with served(classifier) as client:
        health = await client.health()
    assert (health.alive, health.ready, health.state) == (True, True, "ready")
    assert health.model is not None
    assert (health.model.name, health.model.num_classes) == ("fake", 10)


async def test_a_service_that_loads_has_no_model(classifier: FakeClassifier) -> None:
    transport = httpx.ASGITransport(create_app(make_settings(), lambda: classifier))
    async with AsyncClient("http://x", retries=NO_RETRIES, transport=transport) as client:
        health = await client.health()
        assert (health.ready, health.model) == (False, None)
        with pytest.raises(Unavailable, match="the service is loading") as caught:
            await client.predict(b"3")
    assert caught.value.retry_after == 2.0


def names(kind: Any) -> set[str]:
    return {field.name for field in fields(kind)}


def test_results_have_every_field_of_the_services_answers() -> None:
    assert names(ServedModel) == names(ModelInfo)
    assert names(Health) == set(schemas.Health.model_fields)
    assert names(Row) == set(schemas.PredictionRow.model_fields)


@pytest.mark.parametrize(("head", "name"), [(None, b"None"), (2, b"2")])
async def test_explain_answers_with_the_picture(
    classifier: FakeClassifier, head: int | None, name: bytes
) -> None:
    async with served(classifier) as client:
        assert await client.explain(b"3", head) == b"3 by " + name
        with pytest.raises(ServiceError, match="head is '9'"):
            await client.explain(b"3", 9)


async def test_errors_are_the_problem_documents(classifier: FakeClassifier) -> None:
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


async def test_a_key_opens_the_service(classifier: FakeClassifier, tmp_path: Path) -> None:
    key, line = new_key("tests")
    (tmp_path / "keys").write_text(line)
    async with served(classifier, api_key=key, api_keys_file=tmp_path / "keys") as client:
        assert (await client.predict(b"3")).best.class_id == 3
    async with served(classifier, api_keys_file=tmp_path / "keys") as client:
        with pytest.raises(Unauthorized, match="a key is needed"):
            await client.predict(b"3")


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
async def test_each_problem_has_its_type(status: int, name: str, kind: type[ServiceError]) -> None:
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
async def test_a_stranger_is_told_from_the_service(answer: httpx.Response, message: str) -> None:
    with Client("http://x", retries=NO_RETRIES, transport=Script(answer)) as client:
        for ask in (client.health, lambda: client.predict(b"3"), lambda: client.explain(b"3")):
            with pytest.raises(UnexpectedAnswer, match="http://x/") as caught:
                ask()
            assert message in str(caught.value)
            assert caught.value.status == answer.status_code


async def test_the_errors_of_the_network_have_their_types() -> None:
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
def test_a_url_that_cannot_be_is_refused(url: str) -> None:
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
def test_options_that_cannot_be_are_refused(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        Client("http://x", **choices)


def test_a_path_before_the_routes_is_kept() -> None:
    script = Script(good())
    with Client("http://gate/models/xcit/", transport=script) as client:
        client.predict(b"3")
    assert script.requests[0].url.path == "/models/xcit/predict"


def test_timings_of_others_do_no_harm() -> None:
    header = 'cfL4;desc="?proto=TCP", cache;dur=, read;dur=0.50, total; dur=12.25;desc=x'
    with Client("http://x", transport=Script(good({"Server-Timing": header}))) as client:
        prediction = client.predict(b"3")
    assert prediction.timings == {"read": 0.5, "total": 12.25}
    assert prediction.best == Row(3, "cat", 0.9, "n02123045")


async def test_one_failing_image_does_not_end_the_rest(
    classifier: FakeClassifier, tmp_path: Path
) -> None:
    (tmp_path / "7").write_bytes(b"7")
    images: list[ImageLike] = [b"1", b"bad", tmp_path / "absent", tmp_path / "7", b"2"]
    async with served(classifier) as client:
        outcomes = [outcome async for outcome in client.predict_many(images, top_k=1)]
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [Prediction, ImageRefused, UnreadableImage, Prediction, Prediction]
    best = [o.best.class_id for o in outcomes if isinstance(o, Prediction)]
    assert best == [1, 7, 2]


def test_one_failing_image_does_not_end_the_rest_in_threads() -> None:
    turns: list[Turn] = [problem(400, "invalid-image"), good(), httpx.ReadTimeout(""), good()]
    with Client("http://x", retries=HASTY, transport=Script(*turns)) as client:
        outcomes = [*client.predict_many([b"3"] * 4, concurrency=1)]
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [ImageRefused, Prediction, TimedOut, Prediction]


async def test_an_error_among_many_keeps_no_image_alive() -> None:
    turns: list[Turn] = [problem(400, "invalid-image"), httpx.ReadTimeout("")]
    with Client("http://x", transport=Script(*turns)) as client:
        outcomes = [*client.predict_many([b"3", b"4"], concurrency=1)]
    async with AsyncClient("http://x", transport=Script(*turns)) as other:
        outcomes += [outcome async for outcome in other.predict_many([b"3", b"4"], concurrency=1)]
    assert len(outcomes) == 4
    for error in outcomes:
        assert isinstance(error, ClientError)
        assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)


async def test_files_are_asked_for_as_their_turn_comes() -> None:
    taken: list[str] = []
    with Client("http://x", transport=Script(good())) as client:
        outcomes = client.predict_many(countdown(map(str, range(100)), taken), concurrency=2)
        assert isinstance(next(outcomes), Prediction)
        outcomes.close()
    assert len(taken) <= 5


async def test_many_at_once_need_a_concurrency() -> None:
    with Client("http://x") as client, pytest.raises(InvalidOption, match="concurrency is 0"):
        client.predict_many([], concurrency=0)
    async with AsyncClient("http://x") as other:
        with pytest.raises(InvalidOption, match="concurrency is -1"):
            other.predict_many([], concurrency=-1)


async def test_a_bar_is_drawn_only_for_who_asks(capsys: pytest.CaptureFixture[str]) -> None:
    with Client("http://x", transport=Script(good())) as client:
        assert len([*client.predict_many([b"3"] * 12)]) == 12
        assert capsys.readouterr().err == ""
        assert len([*client.predict_many([b"3"] * 12, progress=True)]) == 12
    assert "12/12" in capsys.readouterr().err
    async with AsyncClient("http://x", transport=Script(good())) as other:
        images = iter([b"3"] * 7)
        assert len([outcome async for outcome in other.predict_many(images, progress=True)]) == 7
    assert "7image" in capsys.readouterr().err


async def test_connections_are_kept(counting: Predictions) -> None:
    with Client(counting.url) as client:
        assert len([*client.predict_many([b"3"] * 30, concurrency=1)]) == 30
    assert counting.connections == 1
    with Client(counting.url) as client:
        assert len([*client.predict_many([b"3"] * 60, concurrency=8)]) == 60
    assert counting.connections <= 9
    async with AsyncClient(counting.url) as other:
        for _ in range(30):
            await other.predict(b"3")
    assert counting.connections <= 10


async def test_a_waiting_request_can_be_cancelled(classifier: FakeClassifier) -> None:
    classifier.gate.clear()
    async with served(classifier) as client:
        task = asyncio.create_task(client.predict(b"3"))
        await until(lambda: bool(classifier.batches))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        classifier.gate.set()
        assert (await client.predict(b"4")).best.class_id == 4


@pytest.mark.parametrize("classes", [1, 2, 3, 10])
async def test_a_model_with_few_classes_needs_no_top_k(classes: int) -> None:
    classifier = FakeClassifier()
    classifier.info = replace(classifier.info, num_classes=classes)
    async with served(classifier) as client:
        expected = min(classes, 5)
        assert len((await client.predict(b"0")).rows) == expected
        outcomes = [outcome async for outcome in client.predict_many([b"0"])]
        assert [len(each.rows) for each in outcomes if isinstance(each, Prediction)] == [expected]
        assert len((await client.predict(b"0", top_k=1)).rows) == 1
        with pytest.raises(ServiceError, match=f"from 1 to {classes}"):
            await client.predict(b"0", top_k=classes + 1)
