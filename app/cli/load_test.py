"""Measure a server under load, for ``xcit-serve bench``."""

import argparse
import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from xcit_client import ClientError, Health, InvalidOption
from xcit_client.exchange import key_header
from xcit_client.images import encode

from app.cli.options import extra
from app.cli.output import INTERRUPTED, complain, show
from app.cli.remote import DEFAULT_CONCURRENCY, api_key, number, numbers, read_health, timeout
from app.config.settings import SettingsError
from benchmarks.load.connection import encode_post
from benchmarks.load.generator import Load, Outcome, apply_load, closed_loop, open_loop
from benchmarks.load.report import TABLE_HEAD, histogram, remarks, summary, table_row
from benchmarks.load.sample import sample_picture

MAX_OUTSTANDING = 512  # requests of an open loop in flight: more than a server should admit


@dataclass(frozen=True, slots=True)
class Plan:
    """The loads to apply: durations in seconds, rates in requests per second."""

    url: str
    headers: dict[str, str]
    images: Sequence[bytes]
    callers: Sequence[int]
    rates: Sequence[float]
    seconds: float
    warm_up: float
    timeout: float

    def loads(self, seconds: float) -> Iterator[Load]:
        """The loads in order; the time of each starts at its first request."""
        for callers in self.callers:
            name = f"closed loop of {callers}"
            yield Load(name, closed_loop(seconds), callers, self.timeout)
        for rate in self.rates:
            name = f"open loop, {rate:g} per second"
            yield Load(name, open_loop(seconds, rate), MAX_OUTSTANDING, self.timeout)


@dataclass(slots=True)
class Measured:
    """The outcome of each load by name; incomplete if ``interrupted``."""

    outcomes: dict[str, Outcome]
    interrupted: bool = False


def run_bench(args: argparse.Namespace) -> int:
    """Measure a server; print a table and a histogram of each load, and write the files."""
    check_outputs(args.json, args.plot)
    try:
        plan = read_plan(args)
        health = asyncio.run(read_health(args))
    except InvalidOption as error:
        raise SettingsError(str(error)) from error
    except ClientError as error:
        return complain(str(error))
    show(describe(plan, health), "", TABLE_HEAD)
    measured = asyncio.run(measure(plan))
    for name, outcome in measured.outcomes.items():
        for remark in remarks(outcome):
            show(f"{name}: {remark}")
    for name, outcome in measured.outcomes.items():
        if outcome.latencies:
            show("", f"{name}, latency from due time to answer", *histogram(outcome.latencies))
    try:
        write_files(args, plan, health, measured)
    except OSError as error:
        return complain(f"{error.filename}: {error.strerror}")
    if measured.interrupted:
        return complain("interrupted: the results are incomplete", code=INTERRUPTED)
    if not any(outcome.latencies for outcome in measured.outcomes.values()):
        return complain("no request succeeded")
    return 0


def read_plan(args: argparse.Namespace) -> Plan:
    """Raises `SettingsError`, or `ClientError` for an image that cannot be read."""
    concurrency = args.concurrency or ("" if args.rate else DEFAULT_CONCURRENCY)
    return Plan(
        url=args.url.rstrip("/"),
        headers={"Content-Type": "application/octet-stream", **key_header(api_key(args))},
        images=[encode(path) for path in args.images] or [sample_picture()],
        callers=numbers("concurrency", concurrency, int) if concurrency else [],
        rates=numbers("rate", args.rate, float) if args.rate else [],
        seconds=number("seconds", args.seconds),
        warm_up=number("warmup", args.warmup),
        timeout=timeout(args),
    )


async def measure(plan: Plan) -> Measured:
    """Apply each load after a warm-up of the same kind, and print its row when it is done."""
    measured = Measured({})
    requests = [encode_post(plan.url, "/predict", plan.headers, image) for image in plan.images]
    warm_ups = plan.loads(plan.warm_up)
    try:
        for load in plan.loads(plan.seconds):
            await apply_load(plan.url, requests, next(warm_ups))
            outcome = measured.outcomes[load.name] = Outcome()
            try:
                await apply_load(plan.url, requests, load, outcome)
            finally:
                show(table_row(load.name, outcome))
    except asyncio.CancelledError:  # a keyboard interrupt
        measured.interrupted = True
    return measured


def describe(plan: Plan, health: Health) -> str:
    model = health.model
    what = (
        f"{model.name} {model.version} on {model.device}, {model.backend} {model.precision}"
        if model
        else f"no model yet, {health.state}"
    )
    size = sum(map(len, plan.images)) / len(plan.images)
    return f"{plan.url}: {what}; {len(plan.images)} image(s) of {size / 1e3:.0f} kB"


def check_outputs(json_file: Path | None, plot: Path | None) -> None:
    """Raises `SettingsError` if the results could not be written."""
    if plot:
        if plot.suffix.lower() != ".png":
            raise SettingsError(f"--plot={plot}: the name must end in .png")
        with extra("train"):
            import matplotlib  # noqa: F401
    for file in (json_file, plot):
        if file and not file.parent.is_dir():
            raise SettingsError(f"{file}: the directory {file.parent} does not exist")


def write_files(args: argparse.Namespace, plan: Plan, health: Health, measured: Measured) -> None:
    if args.json:
        report = {
            "url": plan.url,
            "model": health.model and asdict(health.model),
            "images": len(plan.images),
            "interrupted": measured.interrupted,
            "loads": [summary(name, outcome) for name, outcome in measured.outcomes.items()],
        }
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    good = {name: o.latencies for name, o in measured.outcomes.items() if o.latencies}
    if args.plot and good:
        from benchmarks.load.plot import plot_latencies

        plot_latencies(args.plot, describe(plan, health), good)
