"""A running server compared with its parts: latency, throughput, and CPU time per image.

    python -m benchmarks.serve --start --checkpoint FILE --images DIR --closed 32 --share 0.8

Prints Markdown. The cost of the parts, preprocessing and inference, is measured in the same run,
from the same checkpoint and images, before and after each load. The overhead of the server is given
in CPU time, which a busy machine distorts less than wall-clock time. `--closed 32 32 32` repeats a
load, and so shows the noise. The ratio is meaningful if all answers are 200: work for abandoned
requests counts.

A closed loop keeps N requests in flight. An open loop sends at random times whatever the server
does; its latency counts from when a request was due, so a stall affects all requests due meanwhile.
Its rate is given (`--open`), or a share of the throughput of the best closed loop before it
(`--share`).
"""

import argparse
import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

from benchmarks.client import get, post_image, read_images
from benchmarks.load.connection import Answer, Connection
from benchmarks.load.generator import Load, Outcome, apply_load, closed_loop, open_loop
from benchmarks.machine import provenance
from benchmarks.parts import TOP_K, load_parts, mean_parts, measure_parts
from benchmarks.report import (
    LoadResult,
    LoneRequest,
    idle_text,
    load_tables,
    lone_text,
    parts_table,
)
from benchmarks.server import Usage, read_usage, served_model, started_server
from model.inference.classifier import Classifier

WARM_UP_SECONDS = 3.0
IDLE_SECONDS = 10.0
LONE_REQUESTS = 50
MAX_OUTSTANDING = 512  # in an open loop: more than the server admits, so that it must refuse


async def benchmark(args: argparse.Namespace) -> None:
    """Run all measurements that ``args`` request, and print them at the end."""
    images = read_images(args.images)
    requests = [post_image(image) for image in images]
    loads: list[LoadResult] = []
    async with server(args) as url:
        served = await served_model(url)
        classifier = load_parts(args.checkpoint, served)
        if served["checkpoint_sha256"] != classifier.sha256:
            raise RuntimeError(f"{url} serves another checkpoint than {args.checkpoint}")
        parts = [measure_parts(classifier, images)]
        await apply_load(url, requests, Load("warm-up", closed_loop(WARM_UP_SECONDS), 4))
        lone = await send_alone(url, classifier, images)
        for load in planned_loads(args, loads):
            outcome, usage = await measure_load(url, requests, load)
            parts.append(measure_parts(classifier, images))
            loads.append(LoadResult(load.name, outcome, usage, mean_parts(parts[-2:])))
        idle = await sit_idle(url)
    texts = (load_tables(loads), lone_text(lone), idle_text(idle, IDLE_SECONDS))
    what = (
        f"{args.checkpoint.stem} on {served['backend']}, {served['precision']}, "
        f"{served['streams']} streams, batches of at most {served['max_batch_size']}"
    )
    print(provenance(), what, parts_table(mean_parts(parts)), *texts, sep="\n\n")


@asynccontextmanager
async def server(args: argparse.Namespace) -> AsyncIterator[str]:
    if args.start:
        async with started_server(args.checkpoint) as url:
            yield url
    else:
        yield args.url


def planned_loads(args: argparse.Namespace, done: Sequence[LoadResult]) -> Iterator[Load]:
    """One load after another; the last ones depend on the results of those ``done`` before."""
    for callers in args.closed:
        yield Load(f"closed loop of {callers}", closed_loop(args.seconds), callers)
    capacity = max((load.outcome.throughput for load in done), default=0.0)
    for rate in (*args.open, *(share * capacity for share in args.share)):
        yield Load(
            f"open loop, {rate:.4g} per second", open_loop(args.seconds, rate), MAX_OUTSTANDING
        )


async def measure_load(url: str, requests: Sequence[bytes], load: Load) -> tuple[Outcome, Usage]:
    before = await read_usage(url)
    outcome = await apply_load(url, requests, load)
    return outcome, await read_usage(url) - before


async def send_alone(
    url: str, classifier: Classifier, images: Sequence[bytes]
) -> list[LoneRequest]:
    """Send single requests; after each, the same image goes through the parts."""
    lone: list[LoneRequest] = []

    def bare(image: bytes) -> float:
        begun = time.perf_counter()
        classifier.predict([classifier.preprocess(image)], TOP_K)
        return time.perf_counter() - begun

    with closing(Connection(url)) as connection:

        async def send(request: bytes) -> tuple[Answer, float]:
            begun = time.perf_counter()
            answer = await connection.send(request)
            return answer, time.perf_counter() - begun

        for image in itertools.islice(itertools.cycle(images), LONE_REQUESTS):
            answer, latency = await send(post_image(image))
            parts = bare(image)
            _, probe = await send(get("/livez"))
            bare(image)
            lone.append(LoneRequest(latency, parts, probe, answer.phases()))
    return lone


async def sit_idle(url: str) -> Usage:
    before = await read_usage(url)
    await asyncio.sleep(IDLE_SECONDS)
    return await read_usage(url) - before


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--start", action="store_true", help="start a server, configured by XCIT_… variables"
    )
    where.add_argument("--url", help="a running server, as http://HOST:PORT")
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="the checkpoint that the server serves"
    )
    parser.add_argument("--images", type=Path, required=True, help="directory of image files")
    parser.add_argument("--closed", type=int, nargs="*", default=[32], metavar="CALLERS")
    parser.add_argument("--open", type=float, nargs="*", default=[], metavar="RATE")
    parser.add_argument("--share", type=float, nargs="*", default=[], metavar="OF_CAPACITY")
    parser.add_argument("--seconds", type=float, default=20.0, help="duration of each load [20]")
    args = parser.parse_args(argv)
    if args.share and not args.closed:
        parser.error("--share needs --closed: it is a share of the throughput of a closed loop")
    asyncio.run(benchmark(args))


if __name__ == "__main__":
    main()
