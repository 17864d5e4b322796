"""A real Prometheus that scrapes a server, and its tool promtool."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.dashboard import DEPLOY, fill_in
from tests.kubernetes.queries import MONITOR
from tests.programs import find_program
from tests.server_process import PATIENCE, Server, free_port

ALERTS = DEPLOY / "prometheus/alerts.yml"
DRIFT = DEPLOY / "prometheus/drift.yml"
CONFIG = DEPLOY / "prometheus/prometheus.yml"
SCRAPE_INTERVAL = 0.5
RATE_INTERVAL = "3s"
POD = {"namespace": "default", "pod": "xcit-0", "service": "xcit", "endpoint": "http"}


def program(name: str) -> str:
    """The path of a program of the package."""
    return find_program(name, "prometheus", "CI_REQUIRES_PROMETHEUS")


def promtool(*arguments: str, given: str | None = None) -> None:
    done = subprocess.run(
        [program("promtool"), *arguments], input=given, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


@dataclass
class Prometheus:
    """A Prometheus that scrapes one server, and a client of it."""

    client: httpx.Client
    instance: str

    def ask(self, path: str, **parameters: Any) -> Any:
        response = self.client.get(f"/api/v1/{path}", params=parameters)
        answer = response.json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def values(self, expression: str, when: float) -> list[float]:
        """The value of each series at a time, with the dashboard's variables substituted."""
        found = self.ask("query", query=self.filled(expression), time=when)["result"]
        return [float(series["value"][1]) for series in found]

    def value(self, expression: str, when: float) -> float:
        """The value of the only series at a time."""
        (found,) = self.values(expression, when)
        return found

    def curves(self, expression: str, start: float, end: float) -> list[list[float]]:
        """The values of each series between two times, as a panel draws them."""
        expression, step = self.filled(expression), SCRAPE_INTERVAL
        found = self.ask("query_range", query=expression, start=start, end=end, step=step)
        return [[float(value) for _, value in series["values"]] for series in found["result"]]

    def filled(self, expression: str) -> str:
        return fill_in(expression, job="xcit", instance=self.instance, rate_interval=RATE_INTERVAL)


@contextmanager
def running_prometheus(directory: Path, server: Server) -> Iterator[Prometheus]:
    """Run Prometheus with the project's configuration, another target and a shorter interval.

    The target has the labels of a pod that our ServiceMonitor selects, and its relabelling.
    """
    target, interval = f"127.0.0.1:{server.port}", f"{1000 * SCRAPE_INTERVAL:g}ms"
    (endpoint,) = yaml.safe_load(MONITOR.read_text())["spec"]["endpoints"]
    targets = f'- {{targets: ["{target}"], labels: {json.dumps(POD)}}}'
    relabelling = f"    relabel_configs: {json.dumps(endpoint['relabelings'])}"
    text = CONFIG.read_text()
    for old, new in (
        ('- targets: ["xcit:8000"]', f"{targets}\n{relabelling}"),
        ("scrape_interval: 5s", f"scrape_interval: {interval}"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    (directory / CONFIG.name).write_text(text)
    shutil.copy(ALERTS, directory)
    rules = DRIFT.read_text()
    assert rules.count("interval: 1m") == 1
    (directory / DRIFT.name).write_text(rules.replace("interval: 1m", "interval: 1s"))
    port, log = free_port(), directory / "log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={directory / CONFIG.name}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stderr=stderr,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            prometheus = Prometheus(client, target)
            limit = time.monotonic() + PATIENCE
            while not scraped(prometheus):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < limit, log.read_text()
                time.sleep(0.1)
            yield prometheus
    finally:
        process.terminate()
        process.wait(PATIENCE)


def scraped(prometheus: Prometheus) -> bool:
    try:
        return prometheus.values('up{job="xcit"}', time.time()) == [1]
    except (httpx.TransportError, ValueError):  # nobody listens yet, or answers in plain text
        return False
