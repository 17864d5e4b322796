"""What Prometheus makes of the service: every query and every alert, over a load that is known.

Needs Debian's package prometheus; where it is missing the tests are skipped, or fail if the
variable CI_REQUIRES_PROMETHEUS is set.
"""

import asyncio
import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from benchmarks.client import post_image
from benchmarks.load.generator import Load, Outcome, apply_load, closed_loop
from tests.dashboard import DEPLOY, QUERIES, query
from tests.kubernetes import queries as scaling
from tests.server_process import PATIENCE

from .conftest import StartServer
from .prometheus import (
    ALERTS,
    CONFIG,
    DRIFT,
    RATE_INTERVAL,
    SCRAPE_INTERVAL,
    Prometheus,
    program,
    promtool,
    running_prometheus,
)
from .test_contract import picture

pytestmark = pytest.mark.starts_first

MAX_BATCH_SIZE = 8
MAX_QUEUE_SIZE = 40
CALLERS = 32  # all of whom are admitted
CROWD = 96  # of whom some are refused
LIVE = [each for each in QUERIES if "checkpoint:" not in each[1]["expr"]]  # see test_drift.py
STILL = {  # what all this does not move: title and legend
    ("Images of the reference", "images"),
    ("Served model", "{{instance}}"),
    ("Images per batch", "maximum"),
    ("Images, batches and padding", "rows of padding"),
    ("Share of lost requests", "failed: 500, 504"),
}


@dataclass
class Run:
    """A server that was idle, loaded, overloaded and stopped, as Prometheus saw it.

    The times are the ends of these; before the stop, Prometheus has heard of every request.
    """

    metrics: str
    prometheus: Prometheus
    load: Outcome
    overload: Outcome
    start: float
    idle: float
    loaded: float
    overloaded: float
    end: float
    gone: float


@pytest.fixture(scope="module")
def run(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    program("prometheus")
    server = start_server(max_batch_size=MAX_BATCH_SIZE, max_queue_size=MAX_QUEUE_SIZE)
    requests = [post_image(picture(seed)) for seed in range(4)]

    def load(callers: int, seconds: float) -> tuple[Outcome, float]:
        calls = Load("closed", closed_loop(seconds), callers)
        return asyncio.run(apply_load(server.url, requests, calls)), time.time()

    with running_prometheus(tmp_path_factory.mktemp("prometheus"), server) as prometheus:
        start = time.time()
        time.sleep(3.5)
        idle = time.time()
        of_load, loaded = load(CALLERS, 6)
        of_overload, overloaded = load(CROWD, 4)
        time.sleep(3 * SCRAPE_INTERVAL)
        end, metrics = time.time(), server.client.get("/metrics").text
        assert server.stop() == 0
        time.sleep(3 * SCRAPE_INTERVAL)
        yield Run(
            metrics=metrics,
            prometheus=prometheus,
            load=of_load,
            overload=of_overload,
            start=start,
            idle=idle,
            loaded=loaded,
            overloaded=overloaded,
            end=end,
            gone=time.time(),
        )


def test_the_configuration_is_valid() -> None:
    promtool("check", "config", "--lint=all", "--lint-fatal", str(CONFIG))


def test_the_alerts_are_valid() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(ALERTS), str(DRIFT))


def test_every_alert_fires_only_when_it_should() -> None:
    for name in ("alerts", "drift"):
        promtool("test", "rules", str(DEPLOY / f"prometheus/{name}.test.yml"))


def test_the_metrics_are_well_formed(run: Run) -> None:
    promtool("check", "metrics", given=run.metrics)


@pytest.mark.parametrize(
    "asked", LIVE, ids=lambda asked: f"{asked[0]['title']}: {asked[1]['legendFormat']}"
)
def test_panel_shows_data(run: Run, asked: tuple[dict[str, Any], dict[str, Any]]) -> None:
    panel, target = asked
    curves = run.prometheus.curves(target["expr"], run.idle, run.gone)
    numbers = [value for curve in curves for value in curve if math.isfinite(value)]
    assert numbers
    assert min(numbers) >= 0
    assert len(set(numbers)) > 1 or (panel["title"], target["legendFormat"]) in STILL
    if panel["fieldConfig"]["defaults"]["unit"] == "percentunit":
        assert max(numbers) <= 1.2, "shares, and what a rate over a few scrapes adds to them"


def test_batches_grow_with_the_callers(run: Run) -> None:
    mean = query("Images per batch", "{{instance}}")
    assert not any(value > 0 for value in run.prometheus.values(mean, run.idle)), "NaN or none"
    assert 1 < run.prometheus.value(mean, run.loaded) <= MAX_BATCH_SIZE
    assert run.prometheus.value(query("Images per batch", "maximum"), run.loaded) == MAX_BATCH_SIZE


def test_images_per_second_match_the_callers_throughput(run: Run) -> None:
    images = run.prometheus.value(query("Images, batches and padding", "images"), run.loaded)
    assert 0.5 < images / run.load.throughput < 2


def test_phases_add_up_to_no_more_than_the_request(run: Run) -> None:
    duration = 'xcit_request_duration_seconds_{}{{endpoint="/predict"}}[$__rate_interval]'
    total, count = (f"sum(rate({duration.format(part)}))" for part in ("sum", "count"))
    whole = run.prometheus.value(f"{total} / {count}", run.loaded)
    phases = run.prometheus.values(query("Time by phase"), run.loaded)
    assert len(phases) == 4
    assert 0.5 * whole < sum(phases) <= 1.01 * whole


def test_quantiles_are_in_order_and_near_what_the_callers_saw(run: Run) -> None:
    p50, p95, p99 = (
        run.prometheus.value(query("Time of a prediction", f"p{p}"), run.loaded)
        for p in (50, 95, 99)
    )
    assert 0 < p50 <= p95 <= p99
    assert 0.25 < p50 / run.load.percentile(50) < 3, "the buckets are of a factor of 2"


def test_every_request_and_every_refusal_is_counted(run: Run) -> None:
    requests = 'xcit_requests_total{{endpoint="/predict", code="{}"}}'
    counted = {c: run.prometheus.value(requests.format(c), run.end) for c in (200, 503)}
    assert counted == run.load.statuses + run.overload.statuses
    assert run.load.statuses.keys() == {200}
    rejected = 'xcit_rejected_total{reason="overloaded"}'
    assert run.prometheus.value(rejected, run.loaded) == 0
    assert run.prometheus.value(rejected, run.end) == counted[503] > 0


def test_refusals_show_after_an_overload_and_not_before(run: Run) -> None:
    refused = query("Share of lost requests", "refused: 503")
    assert run.prometheus.value(refused, run.loaded) == 0
    assert 0.01 < run.prometheus.value(refused, run.overloaded) < 1
    assert run.prometheus.value(query("Share of lost requests", "failed: 500, 504"), run.end) == 0
    reasons = query("Requests without a prediction")
    assert run.prometheus.values(reasons, run.loaded) == []
    assert len(run.prometheus.values(reasons, run.overloaded)) == 1


def test_room_shrinks_as_load_grows(run: Run) -> None:
    periods = [(run.start, run.idle), (run.idle, run.loaded), (run.loaded, run.overloaded)]
    for legend, bound in (("{{instance}} images", 0.9), ("{{instance}} bytes", 0)):
        expression = query("Queue in use", legend)
        peaks = [max(*run.prometheus.curves(expression, *period)[0]) for period in periods]
        assert peaks[0] == 0 < peaks[1] <= peaks[2] <= 1
        assert peaks[2] > bound
    for title in ("Streams in use", "Cores in use"):
        idle, loaded = (run.prometheus.value(query(title), t) for t in (run.idle, run.loaded))
        assert 3 * idle < loaded
        assert 0.1 < loaded < 1.1


def test_alerts_match_the_events_of_the_run(run: Run) -> None:
    rules = {
        rule["alert"]: rule["expr"]
        for group in yaml.safe_load(ALERTS.read_text())["groups"]
        for rule in group["rules"]
    }
    bursts = {"XcitQueueNearBound"}  # whose average is over seconds here, instead of minutes
    for when, expected in (
        (run.idle, set()),
        (run.loaded, set()),
        (run.end, {"XcitOverloaded"}),
        (run.gone, {"XcitOverloaded", "XcitDown"}),
    ):
        true = {name for name, rule in rules.items() if run.prometheus.values(rule, when)}
        assert true - bursts == expected


def scaling_value(run: Run, name: str, when: float) -> float:
    """The value by which an autoscaler scales, over a shorter time."""
    return run.prometheus.value(scaling.QUERIES[name].replace("[30s]", f"[{RATE_INTERVAL}]"), when)


def test_scaling_by_load_follows_what_is_used_of_cores_and_model(run: Run) -> None:
    idle, loaded = (scaling_value(run, "load", t) for t in (run.idle, run.loaded))
    assert 3 * idle < loaded < 1.2
    cores = run.prometheus.value(query("Cores in use"), run.loaded)
    images = run.prometheus.value(query("Images, batches and padding", "images"), run.loaded)
    model = run.prometheus.value("xcit_model_images_per_second", run.loaded)
    assert loaded == pytest.approx(max(cores, images / model), rel=0.05)


def test_scaling_by_waiting_work_follows_the_callers(run: Run) -> None:
    waiting, periods = scaling.QUERIES["waiting"], [(run.start, run.idle), (run.idle, run.loaded)]
    idle, loaded = (run.prometheus.curves(waiting, *period)[0] for period in periods)
    assert max(idle) == 0
    assert max(loaded) == pytest.approx(CALLERS / MAX_QUEUE_SIZE, abs=0.1)
    (overloaded,) = run.prometheus.curves(waiting, run.loaded, run.overloaded)
    assert 0.9 < max(overloaded) <= 1
    assert scaling_value(run, "waiting", run.end) == 0


def test_scaling_by_refusals_follows_the_answers(run: Run) -> None:
    assert scaling_value(run, "refused", run.idle) == 0
    assert scaling_value(run, "refused", run.loaded) == 0
    statuses = run.overload.statuses
    needed = min(1 + statuses[503] / statuses[200], 10)
    assert scaling_value(run, "refused", run.overloaded) == pytest.approx(needed, rel=0.4)


def test_scaling_has_no_value_without_the_server(run: Run) -> None:
    for name in scaling.QUERIES:
        with pytest.raises(ValueError, match="not enough values"):
            scaling_value(run, name, run.gone)


def test_prometheus_loads_all_rules_without_errors(run: Run) -> None:
    limit = time.monotonic() + PATIENCE
    while True:  # until each has been evaluated
        groups = run.prometheus.ask("rules")["groups"]
        health = {
            (rule["name"], str(rule.get("labels"))): rule["health"]
            for group in groups
            for rule in group["rules"]
        }
        if "unknown" not in health.values() or time.monotonic() > limit:
            break
        time.sleep(0.2)
    written = ALERTS.read_text() + DRIFT.read_text()
    assert len(health) == len(re.findall("- (?:alert|record):", written))
    assert set(health.values()) == {"ok"}
