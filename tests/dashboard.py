"""The Grafana dashboard, parsed for tests."""

import json
import re
from pathlib import Path
from typing import Any

DEPLOY = Path(__file__).parent.parent / "deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/dashboards/xcit.json").read_text())
ROWS = [panel for panel in DASHBOARD["panels"] if panel["type"] == "row"]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [(panel, target) for panel in PANELS for target in panel["targets"]]  # with their panels


def query(title: str, legend: str | None = None) -> str:
    """Return the query of a time series, by the panel's title and the legend."""
    (found,) = (
        target["expr"]
        for panel, target in QUERIES
        if panel["type"] == "timeseries"
        and panel["title"] == title
        and legend in (None, target["legendFormat"])
    )
    return str(found)


def fill_in(expression: str, *, job: str, instance: str, rate_interval: str) -> str:
    """Replace the variables of a query as Grafana does; the values match literally."""
    values = {
        "job": re.escape(job),
        "instance": re.escape(instance),
        "__rate_interval": rate_interval,
    }
    for name, value in values.items():
        expression = expression.replace(f"${name}", value.replace("\\", "\\\\"))
    return expression
