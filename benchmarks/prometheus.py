"""A Prometheus that scrapes a server every second, with the project's rules on drift in short time.

Needs Debian's package prometheus, or another installation on the path.
"""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.ports import free_port

RULES = Path(__file__).parents[1] / "deploy" / "prometheus" / "drift.yml"
INTERVAL = 1  # seconds between scrapes, and between evaluations of the rules
WAIT = 2  # seconds for which an alert's condition must hold
STARTING_SECONDS = 30.0


def shorten(rules: str, window: int) -> str:
    """The rules with a window of some seconds, and nothing but durations replaced."""
    replaced = {
        "[1h]": f"[{window}s]",
        "interval: 1m\n": f"interval: {INTERVAL}s\n",
        "for: 10m\n": f"for: {WAIT}s\n",
    }
    for old, new in replaced.items():
        assert old in rules, old
        rules = rules.replace(old, new)
    left = re.findall(r"\[\w+\]|(?:for|interval): \w+", rules)
    assert set(left) == {each.strip() for each in replaced.values()}, left
    return rules


@dataclass
class Prometheus:
    """A client of a running Prometheus."""

    client: httpx.Client

    def ask(self, path: str, **parameters: str) -> Any:
        answer = self.client.get(f"/api/v1/{path}", params=parameters).json()
        if answer["status"] != "success":
            raise RuntimeError(answer["error"])
        return answer["data"]

    def by_label(self, expression: str, label: str) -> dict[str, float]:
        """The latest value of each series, by one of its labels."""
        found = self.ask("query", query=expression)["result"]
        return {series["metric"].get(label, ""): float(series["value"][1]) for series in found}

    def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        alerts = self.ask("alerts")["alerts"]
        return {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}


@contextmanager
def running_prometheus(directory: Path, server: str, window: int) -> Iterator[Prometheus]:
    """Run Prometheus on the address of a server, with the rules on drift over ``window`` seconds.

    Args:
        directory: for its configuration and data.
    """
    (directory / "drift.yml").write_text(shorten(RULES.read_text(), window))
    config = {
        "global": {"scrape_interval": f"{INTERVAL}s", "evaluation_interval": f"{INTERVAL}s"},
        "rule_files": ["drift.yml"],
        "scrape_configs": [{"job_name": "xcit", "static_configs": [{"targets": [server]}]}],
    }
    (directory / "prometheus.yml").write_text(json.dumps(config))
    port = free_port()
    command = [
        "prometheus",
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(command, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            prometheus = Prometheus(client)
            limit = time.monotonic() + STARTING_SECONDS
            while not _scrapes(prometheus):
                if process.poll() is not None or time.monotonic() > limit:
                    raise RuntimeError((directory / "log").read_text())
                time.sleep(0.1)
            yield prometheus
    finally:
        process.terminate()
        process.wait()


def _scrapes(prometheus: Prometheus) -> bool:
    try:
        return prometheus.by_label("up", "job") == {"xcit": 1}
    except (httpx.TransportError, ValueError):  # nobody listens yet, or answers in plain text
        return False
