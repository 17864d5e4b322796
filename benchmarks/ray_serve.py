"""The service behind Ray Serve next to the plain server: photos per second and CPU per photo.

    python -m benchmarks.ray_serve --checkpoint FILE --images DIR

The plain server is measured before the Ray cluster starts and after it has ended. Each way takes
`--rounds` loads of `--callers`; the best one counts. The CPU time is that of all processes: of the
server, or of the whole cluster. Prints Markdown.
"""

import argparse
import asyncio
import itertools
import os
import tempfile
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.client import post_image, read_images
from benchmarks.load.generator import Load, apply_load, closed_loop
from benchmarks.machine import provenance
from benchmarks.ports import free_port
from benchmarks.server import served_model, started_server

OBJECT_STORE = 100 * 2**20  # bytes; only bodies over 100 kB are put there
DEFAULT_ONGOING = 5  # Ray's default of max_ongoing_requests
TICKS = os.sysconf("SC_CLK_TCK")
PARTS = {"ray::ServeReplica": "replica", "ray::ProxyActor": "proxy"}  # by the process's title

Send = Callable[[float], Awaitable[tuple[int, float]]]


@dataclass(frozen=True, slots=True)
class Round:
    """One load: answered photos, seconds, and CPU seconds by part."""

    photos: int
    seconds: float
    cpu: dict[str, float]

    @property
    def throughput(self) -> float:
        return self.photos / self.seconds

    def per_photo(self, part: str) -> float:
        """Milliseconds of CPU time."""
        return 1e3 * self.cpu.get(part, 0.0) / self.photos


def read_cpu() -> dict[str, float]:
    """CPU seconds of all descendants of this process, by part."""
    parents, seconds, parts = {}, {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            title = (path / "cmdline").read_text().partition(":default")[0]
        except OSError:  # the process has ended
            continue
        pid = int(path.name)
        parents[pid] = int(fields[1])
        seconds[pid] = (int(fields[11]) + int(fields[12])) / TICKS
        parts[pid] = next((part for start, part in PARTS.items() if title.startswith(start)), "")
    total: dict[str, float] = {}
    for pid in parents:
        if pid != os.getpid() and os.getpid() in ancestors(pid, parents):
            part = parts[pid] or "rest"
            total[part] = total.get(part, 0.0) + seconds[pid]
    return total


def ancestors(pid: int, parents: dict[int, int]) -> Iterator[int]:
    while pid in parents:
        pid = parents[pid]
        yield pid


async def measure(send: Send, args: argparse.Namespace) -> list[Round]:
    await send(args.seconds / 4)
    rounds = []
    for _ in range(args.rounds):
        before = read_cpu()
        photos, seconds = await send(args.seconds)
        used = {part: cpu - before.get(part, 0.0) for part, cpu in read_cpu().items()}
        rounds.append(Round(photos, seconds, used))
    return rounds


def over_http(url: str, images: Sequence[bytes], callers: int) -> Send:
    requests = [post_image(image) for image in images]

    async def send(seconds: float) -> tuple[int, float]:
        outcome = await apply_load(url, requests, Load("", closed_loop(seconds), callers))
        assert set(outcome.statuses) == {200}, outcome.statuses
        return outcome.statuses[200], outcome.seconds

    return send


def over_handle(handle: Any, images: Sequence[bytes], callers: int) -> Send:
    async def send(seconds: float) -> tuple[int, float]:
        begun, endless, photos = time.monotonic(), itertools.cycle(images), 0

        async def call() -> None:
            nonlocal photos
            while time.monotonic() < begun + seconds:
                await handle.predict.remote(next(endless))
                photos += 1

        await asyncio.gather(*(call() for _ in range(callers)))
        return photos, time.monotonic() - begun

    return send


@contextmanager
def started_ray(cores: int) -> Iterator[None]:
    """A Ray cluster on this machine, whose processes are descendants of this one."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # 15 by default: the load generator would come first.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    import ray

    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as path:
        ray.init(
            num_cpus=cores,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE,
            log_to_driver=False,
            _temp_dir=path,
        )
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def started_serve(cores: int) -> Iterator[int]:
    """Ray Serve on such a cluster; yields the port of the proxy."""
    with started_ray(cores):
        from ray import serve

        port = free_port()
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        yield port
        serve.shutdown()  # type: ignore[no-untyped-call]


@asynccontextmanager
async def deployed(args: argparse.Namespace, ongoing: int | None = None) -> AsyncIterator[Any]:
    """The service with one replica; yields its handle.

    Args:
        ongoing: replaces the ``max_ongoing_requests`` that the service chooses.
    """
    from ray import serve

    from app.ray import Arguments, build

    given = {
        "checkpoint": str(args.checkpoint),
        "max_batch_size": args.batch,
        "num_cpus": args.cpus,
    }
    application = build(Arguments.model_validate(given))
    if ongoing:
        bound = application._bound_deployment.options(max_ongoing_requests=ongoing)
        application = bound.bind(*bound.init_args)
    yield await asyncio.to_thread(serve.run, application)


async def benchmark(args: argparse.Namespace) -> None:
    images = read_images(args.images)
    ways: dict[str, list[Round]] = {"plain server": []}

    async def measure_plain() -> dict[str, Any]:
        async with started_server(args.checkpoint, f"--max-batch-size={args.batch}") as url:
            rounds = await measure(over_http(url, images, args.callers), args)
            ways["plain server"] += rounds
            return await served_model(url)

    served = await measure_plain()
    with started_serve(args.cpus) as port:
        http = over_http(f"http://127.0.0.1:{port}", images, args.callers)
        async with deployed(args) as handle:
            ways["Ray Serve, HTTP"] = await measure(http, args)
            calls = over_handle(handle, images, args.callers)
            ways["Ray Serve, handle"] = await measure(calls, args)
        async with deployed(args, DEFAULT_ONGOING):
            ways[f"HTTP, max_ongoing_requests={DEFAULT_ONGOING}"] = await measure(http, args)
    await measure_plain()
    print(provenance(), describe(args, served), table(ways), sep="\n\n")


def describe(args: argparse.Namespace, served: dict[str, Any]) -> str:
    return (
        f"{args.checkpoint.stem} on {served['backend']}, {served['precision']}, "
        f"{served['streams']} streams, batches of at most {args.batch}; "
        f"{args.callers} callers, {args.cpus} cores."
    )


def table(ways: dict[str, list[Round]]) -> str:
    """The best round of each way."""
    parts = ("replica", "proxy", "rest")
    best = {way: max(rounds, key=lambda each: each.throughput) for way, rounds in ways.items()}
    plain = next(iter(best.values())).throughput
    lines = [
        "| | photos/s | of the plain server | CPU per photo, ms | " + ", ".join(parts) + " |",
        "|---|---:|---:|---:|---|",
    ]
    for way, each in best.items():
        by_part = ", ".join(f"{each.per_photo(part):.1f}" for part in parts if part in each.cpu)
        total = sum(each.per_photo(part) for part in each.cpu)
        lines.append(
            f"| {way} | {each.throughput:.1f} | {each.throughput / plain:.2f} | {total:.1f} "
            f"| {by_part if len(each.cpu) > 1 else ''} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ray_serve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True, help="directory of image files")
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8, help="maximum batch size [8]")
    parser.add_argument("--cpus", type=int, default=2, help="cores of the cluster [2]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="duration of each load [10]")
    args = parser.parse_args(argv)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"ray\.")
        asyncio.run(benchmark(args))


if __name__ == "__main__":
    main()
