"""The scaling queries, on series that are known: replicas, restarts, loading and refusals.

Needs Debian's package prometheus, as `tests.e2e.prometheus` does.
"""

import json
from pathlib import Path

import pytest

from tests.e2e.prometheus import promtool

from .queries import QUERIES

STEPS = 60  # of five seconds


def series(metric: str, values: str, pod: str = "a", **labels: str) -> dict[str, str]:
    """One series of a replica; ``labels`` replace or extend those of our ServiceMonitor."""
    every = {"job": "xcit", "namespace": "default", "pod": pod, "instance": pod} | labels
    text = ", ".join(f'{name}="{value}"' for name, value in every.items())
    return {"series": f"{metric}{{{text}}}", "values": values}


def replica(
    pod: str = "a",
    *,
    states: dict[str, str] | None = None,
    labels: dict[str, str] | None = None,
    **changes: str,
) -> list[dict[str, str]]:
    """A replica with two cores, ready and idle except for ``changes``: values by metric."""
    metrics = {
        "process_cpu_seconds_total": f"100x{STEPS}",
        "xcit_cores": f"2x{STEPS}",
        "xcit_batch_size_sum": f"1000x{STEPS}",
        "xcit_model_images_per_second": f"50x{STEPS}",
        "xcit_inflight_requests": f"0x{STEPS}",
        "xcit_max_queue_size": f"256x{STEPS}",
        "xcit_rejected_total": f"0x{STEPS}",
    }
    own = {"xcit_rejected_total": {"reason": "overloaded"}}
    found = [
        series(name, each, pod, **(labels or {}), **own.get(name, {}))
        for name, each in (metrics | changes).items()
    ]
    states = states or {"ready": f"1x{STEPS}", "loading": f"0x{STEPS}"}
    for state, each in states.items():
        found.append(series("xcit_state", each, pod, **(labels or {}), state=state))
    return found


def values(
    tmp_path: Path, given: list[dict[str, str]], when: str, **expected: float | None
) -> None:
    """Check the value of each query at a time; ``None`` for a query without a result."""
    tests = [
        {
            "expr": f"round({QUERIES[name]}, 0.001)",
            "eval_time": when,
            "exp_samples": [] if value is None else [{"labels": "{}", "value": value}],
        }
        for name, value in expected.items()
    ]
    file = tmp_path / "test.yml"
    whole = {"interval": "5s", "input_series": given, "promql_expr_test": tests}
    file.write_text(json.dumps({"evaluation_interval": "5s", "tests": [whole]}))
    promtool("test", "rules", str(file))


def test_each_replica_counts_by_what_is_used_most(tmp_path: Path) -> None:
    by_cores = replica(process_cpu_seconds_total="0+5x60", xcit_batch_size_sum="0+50x60")
    by_model = replica("b", process_cpu_seconds_total="0+2x60", xcit_batch_size_sum="0+200x60")
    values(tmp_path, by_cores + by_model, "2m", load=0.5 + 0.8, waiting=0, refused=0)


def test_waiting_work_counts_in_queues(tmp_path: Path) -> None:
    given = replica(xcit_inflight_requests="64x60")
    given += replica("b", xcit_inflight_requests="512x60", xcit_max_queue_size="1024x60")
    values(tmp_path, given, "2m", load=0, waiting=0.25 + 0.5)


def test_a_model_that_was_not_measured_does_not_count(tmp_path: Path) -> None:
    given = replica(xcit_model_images_per_second="0x60", process_cpu_seconds_total="0+5x60")
    values(tmp_path, given, "2m", load=0.5)


def test_refused_requests_need_replicas_too(tmp_path: Path) -> None:
    given = replica(xcit_batch_size_sum="0+50x60", xcit_rejected_total="0+50x60")
    given += replica("b", xcit_batch_size_sum="0+50x60")
    values(tmp_path, given, "2m", refused=2 * (1 + 50 / 100))


def test_less_than_one_percent_of_refusals_do_not_count(tmp_path: Path) -> None:
    given = replica(xcit_batch_size_sum="0+1000x60", xcit_rejected_total="0+9x60")
    values(tmp_path, given, "2m", refused=0)


def test_refusals_alone_ask_for_ten_times_the_replicas(tmp_path: Path) -> None:
    values(tmp_path, replica(xcit_rejected_total="0+50x60"), "2m", refused=10)


def test_other_services_do_not_count(tmp_path: Path) -> None:
    for labels in ({"namespace": "other"}, {"job": "other"}):
        given = replica() + replica(
            "b",
            labels=labels,
            process_cpu_seconds_total="0+10x60",
            xcit_inflight_requests="256x60",
            xcit_batch_size_sum="0+50x60",
            xcit_rejected_total="0+50x60",
        )
        values(tmp_path, given, "2m", load=0, waiting=0, refused=0)


def test_a_replica_that_loads_counts_only_after_a_whole_window(tmp_path: Path) -> None:
    """It is ready after one minute, in which it used both of its cores."""
    loading = replica(
        "b",
        process_cpu_seconds_total="0+10x11 120+5x48",
        states={"ready": "0x11 1x48", "loading": "1x11 0x48"},
    )
    given = replica(process_cpu_seconds_total="0+5x60") + loading
    values(tmp_path, given, "55s", load=0.5)
    values(tmp_path, given, "1m25s", load=0.5)
    values(tmp_path, given, "1m30s", load=1)


def test_a_restart_does_not_count_as_work(tmp_path: Path) -> None:
    """Its counters start at 0 again, after two scrapes without an answer."""
    gone, again = "stale stale", "x40"
    restarted = replica(
        "b",
        process_cpu_seconds_total=f"9000+5x17 {gone} 1+5{again}",
        xcit_batch_size_sum=f"9000+50x17 {gone} 0+50{again}",
        xcit_rejected_total=f"9000x17 {gone} 0{again}",
        xcit_cores=f"2x17 {gone} 2{again}",
        xcit_model_images_per_second=f"50x17 {gone} 50{again}",
        states={"ready": f"1x17 {gone} 0x1 1x38", "loading": f"0x17 {gone} 1x1 0x38"},
    )
    given = replica(process_cpu_seconds_total="0+5x60") + restarted
    values(tmp_path, given, "1m25s", load=1, refused=0)
    for when in ("1m35s", "1m40s", "1m50s", "2m10s"):
        values(tmp_path, given, when, load=0.5, refused=0)
    values(tmp_path, given, "2m20s", load=1, refused=0)


def test_without_data_there_is_no_value(tmp_path: Path) -> None:
    ended = {"ready": "1x17 stale", "loading": "0x17 stale"}
    given = replica(xcit_inflight_requests="64x17 stale", states=ended)
    values(tmp_path, given, "2m5s", load=None, waiting=None, refused=None)
    loading = replica(states={"ready": f"0x{STEPS}", "loading": f"1x{STEPS}"})
    values(tmp_path, loading, "2m5s", load=None, waiting=0, refused=0)


def test_promtool_finds_a_wrong_value(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="FAILED"):
        values(tmp_path, replica(), "2m", load=1)
