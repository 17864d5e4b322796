"""Requests for docker-smoke.sh: ``smoke_client.py QUESTION http://HOST:PORT IMAGE``.

Exits non-zero, with the reason, unless the service answers as expected. Uses only the standard
library.
"""

import json
import sys
import threading
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

QUESTION, URL, IMAGE = sys.argv[1:]
image = Path(IMAGE).read_bytes()
middle = len(image) // 2


def connect() -> HTTPConnection:
    return HTTPConnection(URL.removeprefix("http://"), timeout=30)


def begin() -> HTTPConnection:
    """Send the first half of a request."""
    connection = connect()
    connection.putrequest("POST", "/predict?top_k=3")
    connection.putheader("Content-Type", "image/jpeg")
    connection.putheader("Content-Length", str(len(image)))
    connection.endheaders(image[:middle])
    return connection


def end(connection: HTTPConnection) -> Any:
    """Send the other half, and read the answer."""
    connection.send(image[middle:])
    response = connection.getresponse()
    body = json.load(response)
    assert response.status == 200, body
    scores = [row["score"] for row in body["predictions"]]
    assert len(scores) == 3, body
    assert scores == sorted(scores, reverse=True), body
    assert 0 < sum(scores) < 1.001, body
    assert all(row["label"] for row in body["predictions"]), body
    assert "inference;dur=" in (response.getheader("Server-Timing") or ""), response.getheaders()
    return body


def ready() -> bool:
    connection = connect()
    connection.request("GET", "/readyz")
    return connection.getresponse().status == 200


def predict() -> None:
    assert end(begin()) == end(begin())


def get(path: str) -> str:
    connection = connect()
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read().decode()
    assert response.status == 200, body
    return body


def workers() -> None:
    """Two workers and an engine answer, and any worker shows all of them."""
    predict()
    health = json.loads(get("/healthz"))
    assert health["http_workers"] == 2, health
    assert health["http_workers_reason"] == "as configured", health
    for _ in range(8):  # connections, which both workers accept
        metrics = get("/metrics")
        for line in (
            "xcit_http_workers 2.0",
            'xcit_worker_connections{worker="0"}',
            'xcit_worker_connections{worker="1"}',
            'xcit_engine_queue_depth{engine="0"}',
            *(
                f'xcit_process_resident_memory_bytes{{process="{name}"}}'
                for name in ("supervisor", "engine-0", "worker-0", "worker-1")
            ),
        ):
            assert f"\n{line}" in metrics, line


def restarted() -> None:
    """A worker was replaced once, and the service answers."""
    workers()
    assert "\nxcit_worker_restarts_total 1.0\n" in get("/metrics")


def refuse() -> None:
    connection = connect()
    connection.request("POST", "/predict", b"no image at all")
    response = connection.getresponse()
    assert response.status == 415, response.status
    assert response.getheader("Content-Type") == "application/problem+json", response.getheaders()


def drain() -> None:
    """Send one request across the start of a shutdown, and one after it, as routers lag behind."""
    connection = begin()
    sys.stdout.write("begun\n")
    sys.stdout.flush()
    deadline = time.monotonic() + 20
    while ready():
        assert time.monotonic() < deadline, "it never became unready"
        time.sleep(0.1)
    end(connection)
    end(begin())


def outlast() -> None:
    """Send requests until stdin ends; none that got a connection may be lost."""
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    served = refused = reset = 0
    while not ended.is_set():
        connection = connect()
        try:
            connection.connect()
        except OSError:
            refused += 1
            time.sleep(0.05)
            continue
        try:
            connection.request("POST", "/predict", image, {"Connection": "close"})
            response = connection.getresponse()
        except ConnectionResetError:  # by the kernel: the server had not accepted it yet
            reset += 1
            assert reset < 3, reset
            continue
        body = json.load(response)
        if response.status == 503 and body["type"] in ("/problems/not-ready", "/problems/draining"):
            refused += 1
            time.sleep(0.05)
            continue
        assert response.status == 200, body
        served += 1
        sys.stdout.write(f"served {served}, without a connection or refused {refused}\n")
        sys.stdout.flush()
    assert served > 20, served
    assert refused, "it was never unavailable"


{
    "predict": predict,
    "workers": workers,
    "restarted": restarted,
    "refuse": refuse,
    "drain": drain,
    "outlast": outlast,
}[QUESTION]()
