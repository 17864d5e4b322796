"""Measuring one contender in one round: check the answers, then measure under load, then idle."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.compare.contenders import Contender
from benchmarks.compare.processes import Server, started
from benchmarks.load.connection import Connection
from benchmarks.load.generator import Load, apply_load, closed_loop
from benchmarks.server import served_model

WARM_UP_SECONDS = 3.0
IDLE_SECONDS = 5.0
CHECKED = 20  # images
TOP_K = 5
AGREEMENT = 0.9  # peers resize and round differently


@dataclass(frozen=True, slots=True)
class Sample:
    """Measurements of a server in one round; latencies and CPU time in seconds.

    ``choices`` are those that the service made at its start; they may differ between rounds.
    """

    throughput: float
    p50: float
    p99: float
    cpu_per_thousand: float
    idle: float
    refused: int
    choices: str = ""


@dataclass(slots=True)
class Arena:
    """What all contenders share, and the best classes according to the first of them."""

    checkpoint: Path
    images: Sequence[bytes]
    seconds: float
    callers: int
    expected: list[int] | None = None

    async def measure(self, contender: Contender) -> Sample:
        requests = [contender.request(image) for image in self.images]
        async with started(contender, self.checkpoint, requests[0]) as server:
            self.check(contender, await best_classes(server, contender, requests[:CHECKED]))
            await server.settle()
            warm_up = Load("warm-up", closed_loop(WARM_UP_SECONDS), self.callers)
            await apply_load(server.url, requests, warm_up)
            sample = await self.sample(server, requests)
            return sample if contender.peer else replace(sample, choices=await choices(server))

    async def sample(self, server: Server, requests: Sequence[bytes]) -> Sample:
        before = server.cpu_seconds()
        load = Load("closed loop", closed_loop(self.seconds), self.callers)
        outcome = await apply_load(server.url, requests, load)
        cpu_seconds = server.cpu_seconds() - before
        await asyncio.sleep(1.0)
        good = len(outcome.latencies)
        return Sample(
            throughput=outcome.throughput,
            p50=outcome.percentile(50),
            p99=outcome.percentile(99),
            cpu_per_thousand=1000 * cpu_seconds / good if good else float("nan"),
            idle=await server.load_over(IDLE_SECONDS),
            refused=outcome.statuses.total() - good,
        )

    def check(self, contender: Contender, found: list[int]) -> None:
        """Raises `RuntimeError` if a contender's best classes differ from the first one's."""
        self.expected = self.expected or found
        agreed = sum(a == b for a, b in zip(found, self.expected, strict=True))
        if agreed < AGREEMENT * len(found):
            raise RuntimeError(
                f"{contender.name} agrees on {agreed} of {len(found)} images: "
                f"{found}, not {self.expected}"
            )


async def choices(server: Server) -> str:
    served = await served_model(server.url)
    streams, size = served["streams"], served["max_batch_size"]
    return f"{served['backend']} {served['precision']}, streams {streams}, batches of {size}"


async def best_classes(
    server: Server, contender: Contender, requests: Sequence[bytes]
) -> list[int]:
    """The best class of each image, one request after another."""
    found = []
    with closing(Connection(server.url)) as connection:
        for request in requests:
            answer = await connection.send(request)
            if answer.status != 200:
                raise RuntimeError(f"{contender.name} answers {answer.status}: {answer.body!r}")
            classes = contender.classes(json.loads(answer.body))
            if len(classes) != TOP_K:
                raise RuntimeError(f"{contender.name} answers with {len(classes)} classes")
            found.append(classes[0])
    return found
