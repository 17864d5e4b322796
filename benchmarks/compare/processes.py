"""A server with all its processes: starting it, reading its CPU time, stopping it. Needs Linux."""

import asyncio
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.compare.contenders import Contender
from benchmarks.load.connection import Connection
from benchmarks.ports import free_port

LOADING_SECONDS = 120.0
ENDING_SECONDS = 30.0  # for the main process, and again for processes that it leaves behind
SETTLING_SECONDS = 15.0
QUIET = 0.1  # of a core
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Process:
    """A line of ``/proc/PID/stat``; CPU time includes children that have ended."""

    pid: int
    state: str
    parent: int
    session: int
    started: int
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Server:
    url: str
    pid: int

    def cpu_seconds(self) -> float:
        """CPU time of all its processes since their start."""
        return sum(process.cpu_seconds for process in family(self.pid))

    async def load_over(self, seconds: float) -> float:
        """CPU time in the next ``seconds``, as a share of a core."""
        before, begun = self.cpu_seconds(), time.monotonic()
        await asyncio.sleep(seconds)
        return (self.cpu_seconds() - before) / (time.monotonic() - begun)

    async def settle(self) -> None:
        """Wait until it is idle, since workers may still be loading; some servers never are."""
        deadline = time.monotonic() + SETTLING_SECONDS
        while time.monotonic() < deadline and await self.load_over(1.0) > QUIET:
            pass


@asynccontextmanager
async def started(contender: Contender, checkpoint: Path, probe: bytes) -> AsyncIterator[Server]:
    """A server that has answered ``probe``, in an empty working directory."""
    port = free_port()
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory,
        tempfile.TemporaryFile("w+", errors="replace") as log,
    ):
        process = subprocess.Popen(
            contender.command(checkpoint, port),
            cwd=directory,
            env=contender.variables(),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        server = Server(f"http://127.0.0.1:{port}", process.pid)
        try:
            await answered(server.url, probe, running=lambda: process.poll() is None)
            yield server
        except BaseException as error:
            log.seek(0)
            error.add_note(f"last log lines of {contender.name}:\n{log.read()[-4000:]}")
            raise
        finally:
            end(process)


async def answered(url: str, probe: bytes, *, running: Callable[[], bool]) -> None:
    """Wait until the server answers ``probe``."""
    status = 0
    try:
        async with asyncio.timeout(LOADING_SECONDS):
            while status != 200:
                if not running():
                    raise RuntimeError("the server has ended")
                with suppress(OSError, EOFError), closing(Connection(url)) as connection:
                    status = (await connection.send(probe)).status
                await asyncio.sleep(0.1)
    except TimeoutError as error:
        raise RuntimeError(f"the server does not answer; its last status: {status}") from error


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop the server and everything it leaves behind."""
    known = family(process.pid)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(ENDING_SECONDS)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for left in survivors(process.pid, known):
            with suppress(ProcessLookupError):
                os.kill(left.pid, number)
        deadline = time.monotonic() + ENDING_SECONDS
        while survivors(process.pid, known) and time.monotonic() < deadline:
            process.poll()
            time.sleep(0.1)


def survivors(root: int, known: list[Process]) -> list[Process]:
    """Processes in ``known`` or in the session of ``root`` that still run."""
    ids = {(process.pid, process.started) for process in known}
    return [
        process
        for process in processes()
        if process.state != "Z"
        and (process.session == root or (process.pid, process.started) in ids)
    ]


def family(root: int) -> list[Process]:
    """``root``, its descendants, and orphans in its session."""
    found: dict[int, Process] = {}
    everyone = processes()
    while new := [
        process
        for process in everyone
        if process.pid not in found
        and (process.session == root or process.pid == root or process.parent in found)
    ]:
        found |= {process.pid: process for process in new}
    return list(found.values())


def processes() -> list[Process]:
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # the process has ended
            found.append(parse_stat((directory / "stat").read_text()))
    return found


def parse_stat(text: str) -> Process:
    head, _, tail = text.rpartition(")")  # the name before it may contain anything
    fields = tail.split()
    return Process(
        pid=int(head.split(maxsplit=1)[0]),
        state=fields[0],
        parent=int(fields[1]),
        session=int(fields[3]),
        started=int(fields[19]),
        cpu_seconds=sum(int(ticks) for ticks in fields[11:15]) / TICKS,
    )
