"""The server under load: starting one, and reading the usage of any."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.client import get
from benchmarks.load.connection import Connection
from benchmarks.ports import free_port

LOADING_SECONDS = 120.0
DRAINING_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Usage:
    """Resources used and work done by the server process since its start."""

    cpu_seconds: float
    images: float
    batches: float

    def __sub__(self, before: "Usage") -> "Usage":
        return Usage(
            self.cpu_seconds - before.cpu_seconds,
            self.images - before.images,
            self.batches - before.batches,
        )

    @property
    def batch_size(self) -> float:
        """Mean images per batch; NaN without any batches."""
        return self.images / self.batches if self.batches else float("nan")

    @property
    def cpu_per_image(self) -> float:
        return self.cpu_seconds / self.images if self.images else float("nan")


@dataclass(frozen=True, slots=True)
class Server:
    """A server that this process has started."""

    url: str
    process: "subprocess.Popen[bytes]"


@asynccontextmanager
async def started(
    command: Sequence[str], port: int, variables: Mapping[str, str], *, cwd: Path | None = None
) -> AsyncIterator[Server]:
    """Start a Python program that serves, wait until it is ready, and end it with SIGTERM.

    Args:
        command: arguments for Python.
        variables: for its environment, in addition to those of this process.
    """
    process = subprocess.Popen([sys.executable, *command], cwd=cwd, env={**os.environ, **variables})
    url = f"http://127.0.0.1:{port}"
    try:
        while not await is_ready(url):
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(command)} did not start")
            await asyncio.sleep(0.02)
        yield Server(url, process)
    finally:
        process.terminate()
        process.wait()


async def read_metrics(url: str) -> dict[str, float]:
    """Every sample of ``/metrics``, by its name and labels in the text."""
    with closing(Connection(url)) as connection:
        text = (await connection.send(get("/metrics"))).body.decode()
    lines = (line.rpartition(" ") for line in text.splitlines())
    return {name: float(value) for name, _, value in lines if not name.startswith("#")}


async def read_processes(url: str, resource: str = "cpu_seconds_total") -> dict[str, float]:
    """CPU seconds or another resource of each process of the server, by its name."""
    prefix = f'xcit_process_{resource}{{process="'
    return {
        name.removeprefix(prefix).removesuffix('"}'): value
        for name, value in (await read_metrics(url)).items()
        if name.startswith(prefix)
    }


async def read_usage(url: str) -> Usage:
    samples = await read_metrics(url)
    return Usage(
        samples["process_cpu_seconds_total"],
        samples["xcit_batch_size_sum"],
        samples["xcit_batch_size_count"],
    )


async def served_model(url: str) -> dict[str, Any]:
    """The served model and its backend, from ``/healthz``."""
    with closing(Connection(url)) as connection:
        health: dict[str, Any] = json.loads((await connection.send(get("/healthz"))).body)
    return dict(health["model"])


@asynccontextmanager
async def started_server(checkpoint: Path, *options: str) -> AsyncIterator[str]:
    """Start a server and yield its URL; ``XCIT_`` variables reach it, SIGTERM ends it."""
    port = free_port()
    command = [sys.executable, "-m", "app", "serve", "--host=127.0.0.1", f"--port={port}"]
    command += [f"--checkpoint={checkpoint}", *options]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            async with asyncio.timeout(LOADING_SECONDS):
                while not await is_ready(url):
                    if process.poll() is not None:
                        log.seek(0)
                        raise RuntimeError(f"the server did not start: {log.read()}")
                    await asyncio.sleep(0.02)
            yield url
        finally:
            process.terminate()
            process.wait(DRAINING_SECONDS)


async def is_ready(url: str) -> bool:
    try:
        with closing(Connection(url)) as connection:
            return (await connection.send(get("/readyz"))).status == 200
    except (OSError, EOFError):
        return False
