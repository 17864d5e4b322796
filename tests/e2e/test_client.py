"""The Python client with real servers."""

import asyncio
import socket
import threading
import time
from pathlib import Path

import numpy
import pytest
from PIL import Image
from xcit_client import (
    NO_RETRIES,
    AsyncClient,
    Client,
    ImageRefused,
    Prediction,
    Unavailable,
    Unreachable,
)

from tests.server_process import Server, free_port

from .conftest import SLOW_SERVICE, StartServer

pytestmark = pytest.mark.one_process("about the client's side of HTTP")


@pytest.fixture
def server(bundled_server: Server) -> Server:
    return bundled_server


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "dog.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = Image.effect_noise((90, 60), 90)
    Image.merge("RGB", (noise, Image.linear_gradient("L").resize((90, 60)), noise)).save(
        path, exif=exif
    )
    return path


@pytest.mark.quick
def test_every_kind_of_image_has_the_same_answer(server: Server, photo: Path) -> None:
    with Image.open(photo) as picture, Client(server.url) as client:
        upright = numpy.asarray(picture.transpose(Image.Transpose.ROTATE_270))
        of_path = client.predict(photo, top_k=10)
        for image in (str(photo), photo.read_bytes(), picture, upright):
            assert client.predict(image, top_k=10).rows == of_path.rows
        assert client.predict(numpy.asarray(picture), top_k=10).rows != of_path.rows
        health = client.health()
        assert health.model is not None
        assert health.model.name == of_path.model.name == "xcit-cifar10"
        assert client.explain(photo).startswith(b"\x89PNG")


@pytest.mark.quick
def test_threads_share_a_client(server: Server, photo: Path) -> None:
    with Client(server.url) as client:
        outcomes = [*client.predict_many([photo, b"no image"] * 20, concurrency=8)]
    assert [type(outcome) for outcome in outcomes] == [Prediction, ImageRefused] * 20


def test_oversized_body_is_reported_though_the_connection_ends(server: Server) -> None:
    with Client(server.url) as client, pytest.raises(ImageRefused, match="20971520 bytes") as told:
        client.predict(bytes(40 * 2**20))
    assert told.value.status == 413


def test_refused_connection_is_one_readable_error() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    message = f"cannot reach {url}: connection refused; is the service running?"
    with Client(url, retries=NO_RETRIES) as client, pytest.raises(Unreachable) as told:
        client.health()
    assert str(told.value) == message

    async def ask() -> None:
        async with AsyncClient(url, retries=NO_RETRIES) as client:
            await client.health()

    with pytest.raises(Unreachable) as told:
        asyncio.run(ask())
    assert str(told.value) == message


def test_server_that_does_not_speak_http_is_one_readable_error(unfriendly: int) -> None:
    client = Client(f"http://127.0.0.1:{unfriendly}", retries=NO_RETRIES)
    with client, pytest.raises(Unreachable, match="illegal status line"):
        client.health()


@pytest.fixture
def unfriendly() -> int:
    listener = socket.create_server(("127.0.0.1", 0))

    def greet() -> None:
        with listener:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(b"220 ready\r\n\r\n")

    threading.Thread(target=greet, daemon=True).start()
    return int(listener.getsockname()[1])


def test_client_retries_until_a_full_service_has_room(start_server: StartServer) -> None:
    server = start_server(*SLOW_SERVICE, max_queue_size=1)
    with Client(server.url, retries=NO_RETRIES) as hasty:
        outcomes = [*hasty.predict_many([b"0.3"] * 3, concurrency=3)]
    assert {type(outcome) for outcome in outcomes} == {Prediction, Unavailable}
    with Client(server.url) as client:
        outcomes = [*client.predict_many([b"0.3"] * 3, concurrency=3)]
    assert [type(outcome) for outcome in outcomes] == [Prediction] * 3


def test_default_retries_survive_a_seven_second_restart(
    start_server: StartServer,
) -> None:
    first = start_server(*SLOW_SERVICE)
    images = [b"0.0%d" % (number % 10) for number in range(300)]
    with Client(first.url) as client:
        outcomes = client.predict_many(images)
        results = [next(outcomes) for _ in range(50)]
        stopped = time.monotonic()
        assert first.stop() == 0
        restart = threading.Timer(
            max(0.0, stopped + 7 - time.monotonic()),
            lambda: start_server(*SLOW_SERVICE, wait=False, port=first.port),
        )
        restart.start()
        results += outcomes
        restart.join()
    assert [type(result) for result in results] == [Prediction] * 300
