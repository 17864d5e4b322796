"""The load generator of `bench`: connections, loops, latencies and reports."""

import asyncio
import io
import itertools
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from statistics import mean, stdev

import pytest
from PIL import Image

from benchmarks.load.connection import Answer, Connection, encode_post
from benchmarks.load.generator import BROKEN, Load, Outcome, apply_load, closed_loop, open_loop
from benchmarks.load.plot import plot_latencies
from benchmarks.load.report import bar, histogram, remarks, summary, table_row
from benchmarks.load.sample import sample_picture

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
REQUEST = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"

Serve = Callable[[int], Awaitable[bytes]]


@asynccontextmanager
async def server(answer: Serve) -> AsyncIterator[str]:
    """The URL of a server; its n-th answer is ``answer(n)``, and an empty one closes."""
    number = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal number
        with closing(writer):
            while await reader.readuntil(b"\r\n\r\n"):
                number += 1
                content = await answer(number)
                writer.write(content)
                if not content:
                    return

    def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(serve(reader, writer))
        tasks.add(task)

    tasks: set[asyncio.Future[None]] = set()
    listener = await asyncio.start_server(run, "127.0.0.1", 0)
    async with listener:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def always(content: bytes) -> Serve:
    async def answer(_: int) -> bytes:
        return content

    return answer


ANSWERS = {
    "length": (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", b"abc"),
    "chunks": (
        CHUNKED + b"2\r\nab\r\n1;x=y\r\nc\r\n0\r\nTrailer: x\r\n\r\n",
        b"abc",
    ),
    "none": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "the last": (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx", b"x"),
}


@pytest.mark.parametrize(("content", "body"), ANSWERS.values(), ids=ANSWERS)
async def test_connection_reads_answers_of_every_length(content: bytes, body: bytes) -> None:
    async with server(always(content)) as url:
        with closing(Connection(url)) as connection:
            for _ in range(3):
                answer = await connection.send(REQUEST)
                assert (answer.status, answer.body) == (int(content[9:12]), body)


BROKEN_ANSWERS = {
    "no HTTP": b"220 ready\r\n\r\n",
    "an endless head": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000,
    "bad chunks": CHUNKED + b"zz\r\n",
    "hung up": b"",
}


@pytest.mark.parametrize("content", BROKEN_ANSWERS.values(), ids=BROKEN_ANSWERS)
async def test_malformed_answer_is_an_error(content: bytes) -> None:
    async with server(always(content)) as url:
        with closing(Connection(url)) as connection, pytest.raises((OSError, EOFError)):
            await connection.send(REQUEST)


def test_timings_are_read_from_the_head() -> None:
    answer = Answer(
        200, "HTTP/1.1 200 OK\r\nServer-Timing: read;dur=1.50, total;dur=3\r\n\r\n", b""
    )
    assert answer.phases() == {"read": 1.5, "total": 3.0}
    assert Answer(200, "HTTP/1.1 200 OK\r\n\r\n", b"").phases() == {}


def test_post_keeps_the_path_of_the_url() -> None:
    request = encode_post("http://gate:81/xcit", "/predict", {"X-A": "b"}, b"body")
    assert request == (
        b"POST /xcit/predict HTTP/1.1\r\nHost: gate:81\r\nX-A: b\r\nContent-Length: 4\r\n\r\nbody"
    )


async def test_closed_loop_keeps_the_number_of_requests_in_flight() -> None:
    running = most = 0

    async def answer(_: int) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        return OK

    async with server(answer) as url:
        outcome = await apply_load(url, [REQUEST], Load("closed", closed_loop(0.3), 4))
    assert most == 4
    assert outcome.statuses == Counter({200: len(outcome.latencies)})
    assert 4 <= len(outcome.latencies) <= 4 * 16
    assert min(outcome.latencies) >= 0.02
    assert outcome.throughput == len(outcome.latencies) / outcome.seconds
    assert 0.3 <= outcome.seconds < 30


def test_open_loop_sends_at_random_times_at_its_rate() -> None:
    begun = time.monotonic()
    dues = [*open_loop(20.0, 100.0)]
    gaps = [later - due for due, later in itertools.pairwise(dues)]
    assert len(dues) == pytest.approx(2000, rel=0.1)
    assert begun < dues[0] < dues[-1] < begun + 20.1
    assert stdev(gaps) == pytest.approx(mean(gaps), rel=0.1), "as of an exponential distribution"


async def test_stall_shows_in_all_requests_that_were_due() -> None:
    async def answer(number: int) -> bytes:
        await asyncio.sleep(0.5 if number == 5 else 0)
        return OK

    async with server(answer) as url:
        load = Load("open", open_loop(1.0, 100), outstanding=1)
        outcome = await apply_load(url, [REQUEST], load)
    stalled = [latency for latency in outcome.latencies if latency > 0.1]
    assert len(stalled) >= 25, "about 40 were due in the first 0.4 of its 0.5 seconds"
    assert outcome.percentile(50) < max(stalled) <= outcome.percentile(100)


async def test_requests_without_an_answer_are_counted_without_busy_waiting() -> None:
    async with server(always(b"")) as url:
        outcome = await apply_load(url, [REQUEST], Load("closed", closed_loop(0.5), 2))
    assert outcome.statuses == Counter({BROKEN: outcome.failures.total()})
    assert outcome.failures.keys() == {"the connection was closed before the answer"}
    assert 2 <= outcome.failures.total() <= 2 * 6
    assert (outcome.throughput, outcome.latencies) == (0, [])
    gone = await apply_load(url, [REQUEST], Load("closed", closed_loop(0.2), 2))
    assert gone.failures.keys() == {"connection refused"}
    assert gone.failures.total() <= 2 * 3


async def test_timeout_ends_requests_and_limits_the_run() -> None:
    async def answer(number: int) -> bytes:
        await asyncio.sleep(3600 if number > 3 else 0)
        return OK

    begun = time.monotonic()
    async with server(answer) as url:
        load = Load("open", open_loop(0.5, 200), outstanding=2, timeout=0.5)
        outcome = await apply_load(url, [REQUEST], load)
    assert time.monotonic() - begun < 60
    assert len(outcome.latencies) == 3
    assert outcome.failures.total() > 60
    assert outcome.failures.keys() == {"no answer within 0.5 s"}


async def test_results_survive_a_cancellation() -> None:
    async def answer(_: int) -> bytes:
        await asyncio.sleep(0.01)
        return OK

    outcome = Outcome()
    async with server(answer) as url:
        load = Load("closed", closed_loop(60), 2)
        task = asyncio.create_task(apply_load(url, [REQUEST], load, outcome))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert outcome.latencies
    assert 0.2 < outcome.seconds < 1


async def test_first_answer_of_each_error_status_is_kept() -> None:
    busy = b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nfull"

    async def answer(number: int) -> bytes:
        await asyncio.sleep(0.01)
        return busy if number % 2 else OK

    async with server(answer) as url:
        outcome = await apply_load(url, [REQUEST], Load("closed", closed_loop(0.2), 1))
    assert outcome.examples[503].body == b"full"
    assert len(outcome.refusals) == outcome.statuses[503] > 0
    (remark,) = remarks(outcome)
    assert remark == f"{outcome.statuses[503]} x 503, such as: full"


OUTCOME = Outcome(
    seconds=2.0,
    cpu_seconds=1.9,
    latencies=[n / 1000 for n in range(100, 0, -1)],
    statuses=Counter({200: 100, 415: 7, BROKEN: 3}),
    failures=Counter({"connection refused": 2, "no answer within 1 s": 1}),
    examples={415: Answer(415, "", b'{"detail":\n "no image"}')},
)


@pytest.mark.parametrize(
    ("percent", "rank"), [(0, 1), (1, 1), (50, 50), (50.5, 51), (99, 99), (99.1, 100), (100, 100)]
)
def test_percentile_is_a_measured_latency(percent: float, rank: int) -> None:
    assert OUTCOME.percentile(percent) == rank / 1000
    assert math.isnan(Outcome().percentile(percent))


def test_table_row_counts_every_request() -> None:
    row = " ".join(table_row("closed loop of 8", OUTCOME).split())
    assert row == (
        "closed loop of 8 110 50.0 50.0 95.0 99.0 100.0 100 x 200, 7 x 415, 3 x no answer"
    )
    assert table_row("x", Outcome()).split() == ["x", "0", "0.0", *"----"]


def test_remarks_name_failures_refusals_and_a_busy_client() -> None:
    assert remarks(OUTCOME) == [
        "2 x connection refused",
        "1 x no answer within 1 s",
        '7 x 415, such as: {"detail": "no image"}',
        "this client used 95% of a core, so it may have limited the result",
    ]


def test_summary_has_the_numbers_of_the_table() -> None:
    report = summary("x", OUTCOME)
    assert (report["requests"], report["statuses"]) == (110, {"200": 100, "415": 7})
    assert report["failures"] == {"connection refused": 2, "no answer within 1 s": 1}
    assert report["latency_ms"] == pytest.approx(
        {"p50": 50, "p95": 95, "p99": 99, "max": 100, "mean": 50.5}
    )
    assert summary("x", Outcome())["latency_ms"] == {}


@pytest.mark.parametrize(
    "latencies", [[0.1], [0.1] * 5, [0.001, 0.01, 0.1, 10.0], [n / 1000 for n in range(1, 500)]]
)
def test_histogram_contains_every_latency(latencies: list[float]) -> None:
    lines = histogram(latencies)
    edges = [float(line.split()[0]) / 1e3 for line in lines]
    counts = [int(line.split()[-1].replace(",", "")) for line in lines]
    assert sum(counts) == len(latencies)
    assert edges[-1] == pytest.approx(max(latencies), rel=0.1)
    assert len(lines) <= 12
    for edge, upto in zip(edges, (sum(counts[: n + 1]) for n in range(len(counts))), strict=True):
        low, high = (sum(v <= edge * factor for v in latencies) for factor in (0.9, 1.1))
        assert low <= upto <= high


def test_nonzero_bar_is_visible() -> None:
    assert bar(0).strip() == ""
    assert bar(0.0001).strip() == "▏"
    assert bar(1).strip() == "█" * 50
    assert bar(0.51).strip() == "█" * 25 + "▌"


def test_a_plot_is_a_png(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    plot_latencies(path, "x", {"one": [0.01], "many": [n / 1000 for n in range(1, 500)]})
    with Image.open(path) as image:
        assert (image.format, image.size) == ("PNG", (960, 600))


def test_sample_picture_has_the_size_of_a_photo() -> None:
    content = sample_picture()
    assert content == sample_picture()
    assert 60_000 < len(content) < 160_000
    with Image.open(io.BytesIO(content)) as image:
        assert (image.format, image.size) == ("JPEG", (500, 375))
