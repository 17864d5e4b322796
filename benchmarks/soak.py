"""Memory that a server retains after tens of thousands of mixed requests.

    python -m benchmarks.soak --checkpoint FILE

Good images, images that do not decode, invalid forms, and clients that disconnect in the middle of
a body or before the answer. Memory is read throughout; the slope of a line through the last two
thirds is the memory retained per request.
"""

import argparse
import asyncio
import io
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.client import post_image
from benchmarks.load.connection import Connection
from benchmarks.machine import provenance
from benchmarks.server import read_metrics, started_server

CALLERS = 16
READINGS = 100
WARM_UP = 2000  # requests before the first reading
KINDS = {"good": 70, "broken image": 10, "no image": 5, "bad form": 5, "cut": 5, "left": 5}
BAD_FORM = (
    b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
    b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\nzzzz"
)


@dataclass(slots=True)
class Soak:
    """Requests done, resident bytes and open files at each reading; statuses by kind."""

    requests: list[int] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    files: list[float] = field(default_factory=list)
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    inflight: float = 0.0

    @property
    def slope(self) -> float:
        """Bytes per request, over the last two thirds."""
        third = len(self.requests) // 3
        return float(np.polyfit(self.requests[third:], self.memory[third:], 1)[0])


async def soak(url: str, requests: int, *, seed: int = 0) -> Soak:
    found = Soak()
    choices = random.Random(seed)
    kinds = choices.choices(list(KINDS), list(KINDS.values()), k=WARM_UP + requests)
    todo = iter(kinds)
    done = 0

    async def call() -> None:
        nonlocal done
        with closing(Connection(url)) as connection:
            for kind in todo:
                found.answers[kind, await send(url, connection, kind, choices)] += 1
                done += 1

    async def read() -> None:
        samples = await read_metrics(url)
        found.requests.append(done)
        found.memory.append(samples["process_resident_memory_bytes"])
        found.files.append(samples["process_open_fds"])

    callers = asyncio.gather(*(call() for _ in range(CALLERS)))
    for reading in range(READINGS):
        while done < WARM_UP + reading * requests // READINGS:
            await asyncio.sleep(0.01)
        await read()
    await callers
    await asyncio.sleep(1)
    await read()
    found.inflight = (await read_metrics(url))["xcit_inflight_requests"]
    return found


async def send(url: str, connection: Connection, kind: str, choices: random.Random) -> int:
    """Send one request; returns the status, or 0 for a client that does not wait for it."""
    image = picture(choices)
    if kind == "good":
        return (await connection.send(post_image(image))).status
    if kind == "broken image":
        return (await connection.send(post_image(image[: len(image) // 2]))).status
    if kind == "no image":
        return (await connection.send(post_image(choices.randbytes(300)))).status
    if kind == "bad form":
        return (await connection.send(BAD_FORM)).status
    request = post_image(image)
    with suppress(OSError):
        _, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
        writer.write(request if kind == "left" else request[: len(request) // 2])
        await writer.drain()
        await asyncio.sleep(choices.uniform(0, 0.01))
        writer.close()
    return 0


def picture(choices: random.Random) -> bytes:
    side = choices.randint(24, 96)
    pixels = np.frombuffer(choices.randbytes(side * side * 3), np.uint8).reshape(side, side, 3)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, choices.choice(["JPEG", "JPEG", "PNG", "WEBP"]))
    return buffer.getvalue()


def report(found: Soak, seconds: float) -> str:
    statuses: Counter[int] = Counter()
    for (_, status), count in found.answers.items():
        statuses[status] += count
    counts = ", ".join(
        f"{count:,} x {status or 'left'}" for status, count in sorted(statuses.items())
    )
    return (
        f"{sum(statuses.values()):,} requests in {seconds:.0f} s: {counts}.\n\n"
        f"Memory: {found.memory[0] / 2**20:.0f} MiB after {WARM_UP:,}, "
        f"{found.memory[-1] / 2**20:.0f} MiB at the end; "
        f"**{1e4 * found.slope / 2**20:+.2f} MiB per 10,000 requests** over the last two thirds. "
        f"Open files: {found.files[0]:.0f}, at the end {found.files[-1]:.0f}. "
        f"Requests still in flight: {found.inflight:.0f}."
    )


async def benchmark(args: argparse.Namespace) -> None:
    async with started_server(args.checkpoint) as url:
        begun = time.monotonic()
        found = await soak(url, args.requests)
        seconds = time.monotonic() - begun
    print(provenance(), report(found, seconds), sep="\n\n")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=30_000)
    asyncio.run(benchmark(parser.parse_args(argv)))


if __name__ == "__main__":
    main()
