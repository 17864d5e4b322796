"""Child processes as the supervisor sees them: exit codes, and the delay before a restart."""

import asyncio
import signal

import pytest

from app.processes.child import Inheritance
from app.processes.children import Deaths, WorkerChild, channels, exit_reason


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def start_child() -> WorkerChild:
    """A child process that ends by itself only after a minute."""
    child = WorkerChild(0, lambda child, message: None)
    (ours,), (theirs,) = channels(1)
    inherited = Inheritance(0, control=theirs.fileno(), table=0, data=0, slots=0)
    await child.start("tests.processes.sleeper", inherited, ours)
    theirs.close()
    return child


@pytest.mark.anyio
async def test_exit_code_survives_further_signals() -> None:
    for _ in range(5):
        child = await start_child()
        for _ in range(20_000):  # some of them between the end of the process and its `wait`
            child.kill()
        assert await asyncio.wait_for(child.wait(), 10) == -signal.SIGKILL
        assert child.pid is None
        child.kill()  # without effect


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (0, "ended with exit code 0"),
        (1, "ended with exit code 1"),
        (-9, "was killed by SIGKILL"),
        (-40, "was killed by signal 40"),
    ],
)
def test_exit_reason_names_code_or_signal(code: int, reason: str) -> None:
    assert exit_reason(code) == reason


def test_restarts_are_delayed_longer_until_there_are_too_many() -> None:
    now = 0.0
    deaths = Deaths(lambda: now)
    delays = []
    while not deaths.too_many:
        delays.append(deaths.delay)
        deaths.add()
    assert delays == [0, 1, 2, 4, 8]
    now = 60.0
    deaths.add()
    assert (deaths.delay, deaths.too_many) == (1, False)
