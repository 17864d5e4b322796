"""The simulation of the autoscaler, and what it shows of the shipped settings."""

import math
import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from benchmarks.autoscale.__main__ import GPU, variants
from benchmarks.autoscale.autoscaler import Autoscaler, Direction, Policy, Scaling, read_scaling
from benchmarks.autoscale.service import Replica, Server, Service
from benchmarks.autoscale.simulation import constant, ramp, simulate, wave

from .documents import ROOT

SHIPPED = read_scaling()
CPU = Server(rate=400.0, half=1.5, start=15.0, refusal=0.4)
SERVERS = {"cpu": CPU, "gpu": GPU}
RESULTS = (ROOT / "benchmarks" / "results" / "autoscale.md").read_text()
FREE = Direction(0.0, (Policy(percent=False, value=100, period=15.0),))
PLAIN = Scaling({"x": 1.0}, least=1, most=100, up=FREE, down=FREE, rates=30.0, scrape=5.0)

servers = pytest.mark.parametrize("server", SERVERS.values(), ids=SERVERS)


def decisions(scaling: Scaling, total: Callable[[float], float | None], end: float) -> list[int]:
    autoscaler = Autoscaler(scaling)
    return [autoscaler.sync(now, {"x": total(now)}) for now in range(0, round(end), 15)]


def test_replicas_are_the_total_over_the_target_rounded_up() -> None:
    assert decisions(PLAIN, lambda now: 4.5, 15) == [5]
    halves = replace(PLAIN, targets={"x": 0.5})
    assert decisions(halves, lambda now: 4.6, 15) == [10]


def test_a_total_near_the_target_changes_nothing() -> None:
    assert decisions(PLAIN, lambda now: 10.0 if now == 0 else 10.9, 60) == [10] * 4
    assert decisions(PLAIN, lambda now: 10.0 if now == 0 else 11.1, 60) == [10, 12, 12, 12]


def test_the_largest_recommendation_counts_and_limits_hold() -> None:
    scaling = replace(PLAIN, targets={"x": 1.0, "y": 1.0}, least=2, most=6)
    autoscaler = Autoscaler(scaling)
    assert autoscaler.sync(0, {"x": 5.0, "y": 1.0}) == 5
    assert autoscaler.sync(15, {"x": 1.0, "y": 9.0}) == 6
    assert autoscaler.sync(30, {"x": 0.0, "y": 0.0}) == 2


def test_without_a_metric_the_autoscaler_may_add_but_not_remove() -> None:
    scaling = replace(PLAIN, targets={"x": 1.0, "y": 1.0})
    autoscaler = Autoscaler(scaling)
    assert autoscaler.sync(0, {"x": 5.0, "y": None}) == 5
    assert autoscaler.sync(15, {"x": 1.0, "y": None}) == 5
    assert autoscaler.sync(30, {"x": None, "y": None}) == 5


def test_scaling_down_waits_for_its_window() -> None:
    scaling = replace(PLAIN, down=replace(FREE, window=60.0))
    assert decisions(scaling, lambda now: 5.0 if now == 0 else 1.0, 120) == [5] * 5 + [1] * 3


def test_policies_limit_the_change_per_period() -> None:
    doubling = Direction(0.0, (Policy(percent=True, value=100, period=30.0),))
    scaling = replace(PLAIN, least=2, up=doubling)
    assert decisions(scaling, lambda now: 100.0, 105) == [4, 4, 8, 8, 16, 16, 32]
    halving = Direction(0.0, (Policy(percent=True, value=50, period=30.0),))
    scaling = replace(PLAIN, down=halving)
    found = decisions(scaling, lambda now: 40.0 if now < 60 else 1.0, 150)
    assert found == [40, 40, 40, 40, 20, 20, 10, 10, 5, 5]


def test_a_replica_below_its_limit_holds_few_images_and_serves_all() -> None:
    replica = Replica(-math.inf)
    for _ in range(400):
        refused, latency = replica.step(CPU, 0.25, 0.25 * 0.75 * CPU.rate)
        assert refused == 0
    assert replica.images == pytest.approx(CPU.half * 0.75 / 0.25, rel=0.01)
    assert latency == pytest.approx(replica.images / (0.75 * CPU.rate), rel=0.01)


def test_a_replica_above_its_limit_is_full_and_refuses_the_rest() -> None:
    free = replace(CPU, refusal=0.0)
    service = Service(free, 1)
    arrived, refused = 0.0, 0.0
    for number in range(400):
        more, lost, latency = service.step(number / 4, 0.25, 2 * free.rate)
        if number >= 100:
            arrived, refused = arrived + more, refused + lost
    assert refused / arrived == pytest.approx(0.5, abs=0.02)
    assert latency == pytest.approx(free.queue / free.rate, rel=0.02)


@servers
def test_shipped_settings_settle_at_every_constant_load(server: Server) -> None:
    for tenths in range(5, 70, 8):
        run = simulate(SHIPPED, server, constant(server.rate * tenths / 10), 2400)
        late = run.between(1200, 2400)
        assert late.changes == [], tenths
        assert late.refused == 0
        share = tenths / 10 / late.mean_replicas
        assert share <= 1.1 * SHIPPED.targets["load"], "as many replicas as the target asks for"
        assert run.reversals <= 1, "an overshoot may be taken back"


@pytest.mark.parametrize("name", ["without `load`", "`waiting` alone, target 0.02, no window"])
def test_other_settings_oscillate(name: str) -> None:
    run = simulate(variants(SHIPPED)[name], CPU, constant(3 * CPU.rate), 3600)
    assert run.between(1800, 3600).reversals >= 5


@servers
def test_shipped_settings_follow_five_times_the_load(server: Server) -> None:
    slow = simulate(SHIPPED, server, ramp(server.rate, 5 * server.rate, 300, 300), 1200)
    assert slow.between(300, 900).refused < 0.002
    assert slow.reversals <= 1
    fast = simulate(SHIPPED, server, ramp(server.rate, 5 * server.rate, 300, 60), 1200)
    assert 0.005 < fast.between(300, 660).refused < 0.08
    assert fast.between(600, 1200).refused == 0
    alone = variants(SHIPPED)["`load` alone"]
    worse = simulate(alone, server, ramp(server.rate, 5 * server.rate, 300, 60), 1200)
    assert worse.between(300, 660).refused > 1.5 * fast.between(300, 660).refused


def test_shipped_settings_follow_a_wave_and_save_replicas() -> None:
    run = simulate(SHIPPED, CPU, wave(CPU.rate, 5 * CPU.rate, 1800), 3600)
    assert run.refused < 0.001
    assert run.reversals <= 4, "once up and once down per wave"
    assert run.mean_replicas < 0.85 * run.most


def test_the_results_were_made_with_the_shipped_settings() -> None:
    assert re.search(
        r"^\| as shipped \| 0 of \d+, 0, 0\.0% \| 0 of \d+, 0, 0\.0% \|$", RESULTS, re.M
    )
    (gpu,) = re.findall(r"^\| as shipped \| GPU server \| ([\d.]+)%", RESULTS, re.M)
    run = simulate(SHIPPED, GPU, ramp(GPU.rate, 5 * GPU.rate, 300, 0), 600)
    assert f"{run.between(300, 600).refused:.1%}" == f"{gpu}%"


def test_the_guide_quotes_the_results() -> None:
    guide = (ROOT / "docs" / "how-to" / "scale.md").read_text()
    quoted = re.findall(
        r"^\| (at once|within . minutes?) \| ([\d.]+)% \| ([\d.]+) s \|$", guide, re.M
    )
    (row,) = re.findall(r"^\| as shipped \| measured server \| (.*) \|$", RESULTS, re.M)
    measured = re.findall(r"([\d.]+)%, ([\d.]+) s", row)
    assert [(share, seconds) for _, share, seconds in quoted] == measured
    assert len(measured) == 3
    (start,) = re.findall(r"requests after (\d+) s", RESULTS)
    assert f"a new one takes {start} s here" in guide
    (unsteady, loads) = re.findall(r"^\| without `load` \| (\d+) of (\d+),", RESULTS, re.M)[0]
    words = " ".join(guide.split())
    assert f"any of {loads} loads. Without `load`, it never settles for {unsteady} of them" in words
    for name, target in SHIPPED.targets.items():
        assert re.search(rf"^\| `{name}` \| .* \| {target:g} \|$", guide, re.M)
