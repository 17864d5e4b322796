"""Far more requests at once than slots: each gets an answer, and the limit on images is exact."""

import asyncio
import resource
from collections import Counter
from pathlib import Path

import pytest

from tests.server_process import PATIENCE, Server, wait_for

from .service import start

pytestmark = [pytest.mark.thorough, pytest.mark.anyio]

CALLERS = 4096
CONNECTING = 128  # at once
REQUEST = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\ngate"
SLOTS = 64


async def test_of_4096_requests_as_many_as_slots_are_admitted(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, CALLERS + 512), hard))
    gate = tmp_path / "gate"
    service = start(
        tmp_path,
        "tests.e2e.slow_service",
        max_queue_size=SLOTS,
        request_timeout_s=2 * PATIENCE,
        test_gate=gate,
    )
    try:
        connecting, answers = asyncio.Semaphore(CONNECTING), Counter[int]()
        calls = [asyncio.create_task(call(service, connecting, answers)) for _ in range(CALLERS)]
        while answers[503] < CALLERS - SLOTS:
            await asyncio.sleep(0.05)
            assert not any(task.done() and task.exception() for task in calls)
        assert answers == {503: CALLERS - SLOTS}, "all others wait"
        gate.touch()
        await asyncio.gather(*calls)
        assert answers == {200: SLOTS, 503: CALLERS - SLOTS}
        wait_for(lambda: service.metric("xcit_inflight_requests") == 0)
        refused = 'xcit_requests_total{code="503",endpoint="/predict"}'
        assert service.metric(refused) == CALLERS - SLOTS
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert service.stop() == 0


async def call(service: Server, connecting: asyncio.Semaphore, answers: Counter[int]) -> None:
    """Send a request on a new connection, and count its answer."""
    async with connecting:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(REQUEST)
    line = await asyncio.wait_for(reader.readline(), 2 * PATIENCE)
    writer.close()
    answers[int(line.split()[1])] += 1
