"""CPU time of HTTP workers per photo, with an engine that answers at once.

    python -m benchmarks.worker_side --images photos

The web side is what is left without decoding; it is compared with a bare ASGI application on the
same server. Services with 1, 2 and 4 workers are measured in turn, with as many callers per worker:
the cost of a photo should not depend on the number of workers.
"""

import argparse
import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from app.observability.process_metrics import read_resources
from benchmarks.client import post_image, read_images
from benchmarks.instant import PREPARE
from benchmarks.load.generator import Load, apply_load, closed_loop
from benchmarks.machine import provenance
from benchmarks.ports import free_port
from benchmarks.report import table
from benchmarks.server import Server, read_processes, started

CALLERS = 16  # per worker
COUNTS = (1, 2, 4)  # workers
GOAL = 4e-4  # seconds of the web side
BARE = "A bare ASGI application takes {bare:.3f} ms per photo. Goal of the web side: {goal:.2f} ms."
SERVE = ("-m", "benchmarks.worker_side", "--serve")
ROLES = ("worker", "engine", "supervisor")


@dataclass(frozen=True, slots=True)
class Costs:
    """CPU seconds per photo of all workers, the engine and the supervisor."""

    worker: float
    engine: float
    supervisor: float


async def costs_of(url: str, requests: Sequence[bytes], callers: int, seconds: float) -> Costs:
    """The costs of a closed loop."""
    before = await read_processes(url)
    outcome = await apply_load(url, requests, Load("closed", closed_loop(seconds), callers))
    after = await read_processes(url)
    if set(outcome.statuses) != {200}:
        raise RuntimeError(f"answers: {dict(outcome.statuses)} {dict(outcome.failures)}")
    return Costs(
        *(
            sum(after[name] - before[name] for name in after if name.startswith(role))
            / len(outcome.latencies)
            for role in ROLES
        )
    )


def instant_service(workers: int, *, decoding: bool) -> AbstractAsyncContextManager[Server]:
    """A service whose model answers at once."""
    port = free_port()
    variables = {
        "XCIT_HTTP_WORKERS": str(workers),
        "XCIT_PORT": str(port),
        "XCIT_DRAIN_DELAY_S": "0",
        "XCIT_LOG_LEVEL": "warning",
        PREPARE: "" if decoding else "1",
    }
    return started(SERVE, port, variables)


async def measure(
    images: Sequence[bytes], rounds: int, seconds: float, *, decoding: bool
) -> dict[int, Costs]:
    """Median costs by number of workers."""
    requests = [post_image(image) for image in images]
    found: dict[int, list[Costs]] = {count: [] for count in COUNTS}
    async with AsyncExitStack() as stack:
        servers = {
            count: await stack.enter_async_context(instant_service(count, decoding=decoding))
            for count in COUNTS
        }
        for count, server in servers.items():
            await costs_of(server.url, requests, CALLERS * count, seconds / 4)  # warm-up
        for number in range(rounds):
            for count in COUNTS if number % 2 else reversed(COUNTS):
                found[count].append(
                    await costs_of(servers[count].url, requests, CALLERS * count, seconds)
                )
    return {
        count: Costs(*(median(getattr(each, role) for each in costs) for role in ROLES))
        for count, costs in found.items()
    }


async def measure_bare(images: Sequence[bytes], rounds: int, seconds: float) -> float:
    """Median CPU seconds per photo of the bare application."""
    requests = [post_image(image) for image in images]
    port = free_port()
    costs = []
    async with started(("-m", "benchmarks.bare", str(port)), port, {}) as server:
        for _ in range(rounds):
            before = cpu_seconds(server)
            load = Load("closed", closed_loop(seconds), CALLERS)
            outcome = await apply_load(server.url, requests, load)
            costs.append((cpu_seconds(server) - before) / len(outcome.latencies))
    return median(costs)


def cpu_seconds(server: Server) -> float:
    """CPU time of a server with one process."""
    resources = read_resources(server.process.pid)
    assert resources
    return resources.cpu_seconds


def report(name: str, costs: Mapping[int, Costs]) -> str:
    rows = [
        (
            str(count),
            *(f"{1e3 * getattr(each, role):.3f}" for role in ROLES),
            f"{each.worker / costs[COUNTS[0]].worker:.3f}",
        )
        for count, each in costs.items()
    ]
    head = (f"workers, {name}", *(f"{role}, CPU ms" for role in ROLES), "worker, to one")
    return table(head, rows)


def serve() -> None:
    """Serve with the workers of the settings and an instant engine."""
    from app.cli.serve import exit_with
    from app.config.process_plan import plan_processes
    from app.config.settings import read_settings
    from app.observability.logs import set_up_logs
    from app.processes.supervisor import supervise

    settings = read_settings()
    set_up_logs(settings.log_level, settings.log_format)
    plan = plan_processes(settings, cores=os.cpu_count() or 1)
    exit_with(settings, lambda: supervise(settings, plan, "benchmarks.instant"))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.worker_side",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--images", type=Path, help="directory of photos")
    parser.add_argument("--rounds", type=int, default=5, help="loads of each service [5]")
    parser.add_argument("--seconds", type=float, default=3.0, help="duration of each load [3]")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.serve:
        serve()
    if args.images is None:
        parser.error("--images is needed")
    images = read_images(args.images)

    async def both() -> str:
        bare = await measure_bare(images, args.rounds, args.seconds)
        web = await measure(images, args.rounds, args.seconds, decoding=False)
        whole = await measure(images, args.rounds, args.seconds, decoding=True)
        return "\n\n".join(
            (
                report("web side alone", web),
                BARE.format(bare=1e3 * bare, goal=1e3 * GOAL),
                report("with decoding", whole),
            )
        )

    print("# The cost of a worker", provenance(), asyncio.run(both()), sep="\n\n")


if __name__ == "__main__":
    main()
