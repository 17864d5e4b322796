"""Measures a server, simulates the autoscaler, and writes the report."""

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.autoscale.autoscaler import Direction, Policy, Scaling, read_scaling
from benchmarks.autoscale.measure import POD_SECONDS, Measured, best, measure, predict, refused
from benchmarks.autoscale.service import Server
from benchmarks.autoscale.simulation import Run, constant, ramp, simulate, wave
from benchmarks.client import read_images
from benchmarks.machine import provenance
from benchmarks.report import table
from model.checkpoint import BUNDLED_CHECKPOINT

HOUR = 3600.0
BEGIN = 300.0  # seconds before a ramp
AFTER = 300.0  # seconds after a ramp that count for it
RAMPS = {"at once": 0.0, "within 1 minute": 60.0, "within 5 minutes": 300.0}
GPU = Server(rate=10_000.0, half=19.0, start=25.0)  # see the report
AT_ONCE = Direction(0.0, (Policy(percent=True, value=100, period=15.0),))


def variants(shipped: Scaling) -> dict[str, Scaling]:
    """The shipped settings and others, by their names in the report."""
    targets = shipped.targets
    return {
        "as shipped": shipped,
        "without `load`": replace(
            shipped, targets={name: targets[name] for name in ("waiting", "refused")}
        ),
        "`waiting` alone": replace(shipped, targets={"waiting": targets["waiting"]}),
        "`waiting` alone, target 0.02, no window": replace(
            shipped, targets={"waiting": 0.02}, down=AT_ONCE
        ),
        "`load` alone": replace(shipped, targets={"load": targets["load"]}),
    }


def loads(server: Server, scaling: Scaling) -> list[float]:
    """Constant loads, from half a replica to almost more than the most replicas can serve."""
    most = scaling.most * scaling.targets.get("load", 0.7)
    return [server.rate * tenths / 10 for tenths in range(5, round(10 * most), 5)]


def settled(scaling: Scaling, server: Server, rate: float) -> Run:
    """The second half of an hour of constant load."""
    return simulate(scaling, server, constant(rate), HOUR).between(HOUR / 2, HOUR)


def report_constant(shipped: Scaling, servers: dict[str, Server]) -> str:
    rows = []
    for title, scaling in variants(shipped).items():
        row = [title]
        for server in servers.values():
            runs = [settled(scaling, server, rate) for rate in loads(server, shipped)]
            unsteady = sum(bool(run.changes) for run in runs)
            changes = max(len(run.changes) for run in runs)
            refused = max(run.refused for run in runs)
            row.append(f"{unsteady} of {len(runs)}, {changes}, {refused:.1%}")
        rows.append(row)
    return table(["settings", *servers], rows)


def report_ramps(shipped: Scaling, servers: dict[str, Server]) -> str:
    rows = []
    for title, scaling in variants(shipped).items():
        for name, server in servers.items():
            row = [title, name]
            for seconds in RAMPS.values():
                curve = ramp(server.rate, 5 * server.rate, BEGIN, seconds)
                run = simulate(scaling, server, curve, HOUR)
                after = run.between(BEGIN, BEGIN + seconds + AFTER)
                row.append(f"{after.refused:.1%}, {after.latency(99):.2f} s, {run.reversals}")
            rows.append(row)
    return table(["settings", "server", *RAMPS], rows)


def report_others(shipped: Scaling, servers: dict[str, Server]) -> str:
    """A wave and a burst, with the shipped settings."""
    rows = []
    for name, server in servers.items():
        waves = simulate(shipped, server, wave(server.rate, 5 * server.rate, HOUR / 2), 2 * HOUR)
        sized = 5 / shipped.targets["load"]
        burst = simulate(shipped, server, ramp(server.rate, 10 * server.rate, BEGIN, 0, 10), HOUR)
        rows.append(
            [
                name,
                f"{waves.refused:.2%}, {waves.latency(99):.2f} s",
                f"{waves.mean_replicas:.1f} (peak: {sized:.1f})",
                f"{waves.reversals}",
                f"{burst.most}",
            ]
        )
    heads = ["server", "wave: 503, p99", "mean replicas", "reversals", "burst: most replicas"]
    return table(heads, rows)


def report_minute(shipped: Scaling, server: Server) -> str:
    """How the ramp within a minute goes, with the shipped settings."""
    run = simulate(shipped, server, ramp(server.rate, 5 * server.rate, BEGIN, 60.0), HOUR)
    rows = []
    for begin in range(round(BEGIN), round(BEGIN) + 150, 15):
        part = run.between(begin, begin + 15)
        arrivals = sum(moment.arrivals for moment in part.moments) / 15 / server.rate
        last = part.moments[-1]
        rows.append(
            [
                f"{begin - round(BEGIN)} to {begin + 15 - round(BEGIN)} s",
                f"{arrivals:.1f}",
                f"{last.ready} of {last.replicas}",
                f"{part.refused:.0%}",
                f"{part.latency(50):.2f} s",
            ]
        )
    heads = ["time", "load, in replicas", "ready of wanted replicas", "503", "p50"]
    return table(heads, rows)


def report_measured(found: Measured, seconds: float) -> str:
    rows = [
        ["READY, with an empty cache", f"{found.ready:.1f} s", ""],
        ["images/s of one caller, of 32", f"{found.alone:.0f}, {found.together:.0f}", ""],
    ]
    for times, outcome in found.overloads.items():
        share, middle = predict(found.server, times, seconds)
        rows += [
            [f"refused at {times:g} times that", f"{refused(outcome):.0%}", f"{share:.0%}"],
            ["p50 of the others", f"{outcome.percentile(50):.2f} s", f"{middle:.2f} s"],
        ]
    return table(["figure", "measured", "by the model"], rows)


TEXT = """# Autoscaling

{provenance}

A simulation of what [the autoscaling overlays](../../docs/how-to/scale.md#scale-by-load) do; no
cluster was involved. Thresholds, windows and policies are read from `deploy/kubernetes`. The
queries on a real Prometheus, under load and overload, are tested separately.

## The server

The best of several rounds:

{measured}

A replica with `n` images in it serves `rate * n / (n + half)` images per second, and refuses what
would be above {queue} images. Here `rate` is {rate:.0f} and `half` is {half:.1f}. A refusal costs
{refusal:.0%} of the work of an answer, by the first overload; the second one is a prediction. The
client runs on the same cores, so refusals look more expensive than they are.

A new replica gets requests after {start:.0f} s: until READY, one period of the readiness probe, and
{pod:.0f} s that are assumed for the pod, whose image is on the node.

The GPU server is not measured here. 10,000 images per second and a `half` of 19 follow from batches
of 1 and of 64 images of dim 384 [on an H100](gpu.md). Its start, {gpu:.0f} s, is assumed, and its
refusals cost nothing.

## Constant loads

Of an hour of constant load, the second half: how many loads change the number of replicas, how
often the worst of them does, and its share of 503. The loads are 0.5, 1.0, 1.5 … times what one
replica serves.

{constant}

Without `load`, the autoscaler oscillates: below its limit a replica has almost no waiting work, so
the autoscaler removes replicas until the others are full, and adds them again.

## Five times the load

From one to five times what a replica serves, where two replicas run. Of the ramp and the five
minutes after it: share of 503, p99; then reversals (the number of replicas falls after it rose, or
rises after it fell) within the hour.

{ramps}

One reversal is the end of an overshoot: while requests are refused, their number shows the missing
replicas only roughly.

The ramp within a minute, on the measured server, as shipped:

{minute}

## Waves and bursts

A wave between one and five times what a replica serves, every half hour, and a burst of ten times
that for ten seconds; with the shipped settings.

{others}
"""


def report(found: Measured, seconds: float) -> str:
    shipped, server = read_scaling(), found.server
    servers = {"measured server": server, "GPU server": GPU}
    return TEXT.format(
        provenance=provenance(),
        measured=report_measured(found, seconds),
        queue=server.queue,
        rate=server.rate,
        half=server.half,
        refusal=server.refusal,
        start=server.start,
        pod=POD_SECONDS,
        gpu=GPU.start,
        constant=report_constant(shipped, servers),
        ramps=report_ramps(shipped, servers),
        minute=report_minute(shipped, server),
        others=report_others(shipped, servers),
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.autoscale", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=BUNDLED_CHECKPOINT)
    parser.add_argument("--images", type=Path, required=True, help="directory of image files")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load [10]")
    parser.add_argument("--rounds", type=int, default=3, help="of which the best figures count [3]")
    parser.add_argument("--out", type=Path, help="file for the report; default: stdout")
    args = parser.parse_args(argv)
    images = read_images(args.images)
    rounds = [
        asyncio.run(measure(args.checkpoint, images, args.seconds)) for _ in range(args.rounds)
    ]
    text = report(best(rounds), args.seconds)
    if args.out:
        args.out.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
