"""Checks of Prometheus for docker-smoke.sh: ``smoke_monitoring.py QUESTION SERVICE PROMETHEUS``.

Exits non-zero, with the reason, unless the check passes. Uses only the standard library.
"""

import json
import re
import sys
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote

QUESTION, SERVICE, PROMETHEUS = sys.argv[1:]
DEPLOY = Path(__file__).parent.parent / "deploy"
files = ("prometheus/alerts.yml", "prometheus/drift.yml")
written = "\n".join((DEPLOY / name).read_text() for name in files)
panels = json.loads((DEPLOY / "grafana/dashboards/xcit.json").read_text())["panels"]
queries = [target["expr"] for panel in panels for target in panel.get("targets", [])]
RECORDED = r"\bcheckpoint:\w+:\w+"  # names of series that rules record
VARIABLES = {"$__rate_interval": "1m", "$job": "xcit", "$instance": ".+"}


def get(url: str, path: str) -> str:
    connection = HTTPConnection(url.removeprefix("http://"), timeout=10)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read().decode()
    assert response.status == 200, body
    return body


def query(expression: str) -> list[Any]:
    answer = json.loads(get(PROMETHEUS, f"/api/v1/query?query={quote(expression)}"))
    return list(answer["data"]["result"])


def value(expression: str) -> float:
    rows = query(expression)
    assert len(rows) == 1, (expression, rows)
    return float(rows[0]["value"][1])


def show_metrics() -> None:
    sys.stdout.write(get(SERVICE, "/metrics"))


def check_scrape() -> None:
    assert value('up{job="xcit"}') == 1
    assert value('xcit_requests_total{endpoint="/predict", code="200"}') >= 2


def check_rules() -> None:
    """All rules are loaded, none is broken, and none fires while the service is healthy."""
    groups = json.loads(get(PROMETHEUS, "/api/v1/rules"))["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    names = re.findall(r"- (?:alert|record): (\S+)", written)
    assert sorted(rule["name"] for rule in rules) == sorted(names) != [], rules
    states = {rule["name"]: (rule["health"], rule.get("state", "inactive")) for rule in rules}
    assert set(states.values()) == {("ok", "inactive")}, states


def check_names() -> None:
    """Alerts and panels use only metrics that the service has."""
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)", get(SERVICE, "/metrics"), re.MULTILINE))
    parts = ("bucket", "sum", "count")
    histograms = [name for name, kind in kinds.items() if kind == "histogram"]
    known = {*kinds, *(f"{name}_{part}" for name in histograms for part in parts)}
    expressions = re.sub(RECORDED, "", "\n".join([written, *queries]))
    used = set(re.findall(r"\b(?:xcit|process)_\w+", expressions))
    assert used, "no metric is used"
    assert used <= known, f"no such metrics: {used - known}"


def check_queries() -> None:
    """Each query of the dashboard has a result, except for those of events that may not have
    happened, and of rules that need an hour's images and a reference.
    """
    for expression in queries:
        for name, value in VARIABLES.items():
            expression = expression.replace(name, value)
        may_be_empty = expression.endswith("> 0") or re.search(RECORDED, expression)
        assert may_be_empty or query(expression), f"nothing found for {expression}"


{
    "metrics": show_metrics,
    "scrape": check_scrape,
    "rules": check_rules,
    "names": check_names,
    "queries": check_queries,
}[QUESTION]()
