"""The files of the dashboard and the alerts are consistent with each other and the metrics."""

import re
from itertools import combinations
from typing import Any

import pytest
import yaml

from app.http.app import create_app
from app.observability.metrics import Metrics
from app.observability.process_metrics import ProcessesCollector
from app.serving.errors import rejection_reasons
from app.serving.timings import PHASES
from tests.app.conftest import FakeClassifier

from .app.conftest import make_settings
from .dashboard import DASHBOARD, DEPLOY, PANELS, QUERIES, ROWS
from .test_docs import OPERATIONS

RULES: list[dict[str, Any]] = [
    rule
    for name in ("alerts", "drift")
    for group in yaml.safe_load((DEPLOY / f"prometheus/{name}.yml").read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
EXPRESSIONS = [*(target["expr"] for _, target in QUERIES), *(rule["expr"] for rule in RULES)]
RECORDED = r"\bcheckpoint:\w+:\w+"  # names of series that rules record
QUESTIONS = [
    "Is batching working?",
    "What is slow?",
    "Are we losing requests?",
    "How much room is left?",
    "Is the model still right?",
]


def test_each_question_has_a_row_of_panels() -> None:
    assert [row["title"] for row in ROWS] == QUESTIONS
    ends = [row["gridPos"]["y"] for row in ROWS[1:]] + [10**6]
    for row, end in zip(ROWS, ends, strict=True):
        below = [p for p in PANELS if row["gridPos"]["y"] < p["gridPos"]["y"] < end]
        assert len(below) >= 3, row["title"]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: str(panel["title"]))
def test_every_panel_has_a_description_a_unit_and_legends(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert all(target["legendFormat"] for target in panel["targets"])
    if panel["type"] == "timeseries":
        assert panel["options"]["legend"]["showLegend"]
        assert panel["fieldConfig"]["defaults"]["min"] == 0
    if panel["type"] == "stat":
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["value"] is None


def test_the_dashboard_has_a_schema_version_that_grafana_reads() -> None:
    assert 36 <= DASHBOARD["schemaVersion"] <= 39, "written by Grafana 11, read by newer versions"
    identifiers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(identifiers)) == len(identifiers)
    for panel in PANELS:
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)


def test_panels_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    for place in places:
        assert place["x"] >= 0
        assert place["x"] + place["w"] <= 24
    for a, b in combinations(places, 2):
        next_to = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert next_to or above, (a, b)


def test_every_panel_uses_the_selected_data_source() -> None:
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "instance"]
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == (
        "datasource",
        "prometheus",
    )
    selected = {"type": "prometheus", "uid": "${datasource}"}
    parts = [variables["job"], variables["instance"], *PANELS, *(t for _, t in QUERIES)]
    assert all(part["datasource"] == selected for part in parts)


def test_grafana_is_configured_with_the_scrape_interval_of_prometheus() -> None:
    provisioning = DEPLOY / "grafana/provisioning/datasources/prometheus.yml"
    (source,) = yaml.safe_load(provisioning.read_text())["datasources"]
    prometheus = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    assert source["type"] == "prometheus"
    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]


@pytest.mark.parametrize("expression", [target["expr"] for _, target in QUERIES])
def test_every_query_is_limited_to_the_selected_replicas(expression: str) -> None:
    of_jobs = re.findall(RECORDED + r"(\{.*?\})?", expression)  # recorded for all replicas of a job
    assert all(selector.endswith('job=~"$job"}') for selector in of_jobs)
    raw = re.sub(RECORDED, "", expression)
    selectors = re.findall(r"\b(?:xcit|process)_\w+(\{.*?\})?|\bup(\{.*?\})", raw)
    assert selectors or of_jobs
    for selector in selectors:
        assert "".join(selector).endswith('job=~"$job", instance=~"$instance"}')
    assert set(re.findall(r"\[.*?\]", expression)) <= {"[$__rate_interval]"}


def test_queries_use_only_metrics_and_label_values_that_exist() -> None:
    samples = {
        f"{family.name}{suffix}"
        for family in Metrics(processes=ProcessesCollector(dict)).registry.collect()
        for suffix in {
            "counter": ("_total",),
            "info": ("_info",),
            "histogram": ("_bucket", "_sum", "_count"),
        }.get(family.type, ("",))
    }
    together = " ".join(EXPRESSIONS)
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    assert set(re.findall(RECORDED, together)) == recorded
    together = re.sub(RECORDED, "", together)
    assert set(re.findall(r"\b(?:xcit|process)_\w+", together)) <= samples
    reasons = "|".join(re.findall(r'reason=~?"(.*?)"', together)).split("|")
    assert set(reasons) <= set(rejection_reasons())
    assert set(re.findall(r'phase="(.*?)"', together)) <= set(PHASES)


def test_the_endpoint_patterns_match_all_prediction_routes_and_no_others() -> None:
    routes = {
        (method, path)
        for choices in ({}, {"cloud": "sagemaker"}, {"cloud": "vertex"}, {"admin_token": "x"})
        for path, item in create_app(make_settings(**choices), FakeClassifier)
        .openapi()["paths"]
        .items()
        for method in item
    }
    others = {"/admin/reload", "/v2/repository/index"}
    predict = {path for method, path in routes if method == "post"} - others
    assert len(predict) >= 6
    of_one_image = predict - {"/explain", "/predict/batch"}
    named = set(re.findall(r'endpoint=~"(.*?)"', " ".join(EXPRESSIONS)))
    matched = [{path for _, path in routes if re.fullmatch(name, path)} for name in named]
    assert sorted(matched, key=len) == [of_one_image, predict]


@pytest.mark.parametrize(
    ("title", "alert"),
    [
        ("Time of a prediction", "XcitSlow"),
        ("Share of lost requests", "XcitErrors"),
        ("Share of lost requests", "XcitOverloaded"),
        ("Queue in use", "XcitQueueNearBound"),
        ("Distance from the reference", "XcitScoreDrift"),
        ("Distance from the reference", "XcitClassDrift"),
        ("Distance from the reference", "XcitImageDrift"),
    ],
)
def test_a_dashed_line_marks_the_threshold_of_an_alert(title: str, alert: str) -> None:
    (panel,) = (p for p in PANELS if p["title"] == title and p["type"] == "timeseries")
    assert panel["fieldConfig"]["defaults"]["custom"]["thresholdsStyle"] == {"mode": "dashed"}
    line = panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]["value"]
    assert re.search(rf"> {line}\b", ALERTS[alert]["expr"])
    assert "An alert fires" in panel["description"]


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_tests_and_a_row_in_the_runbook(alert: str) -> None:
    tests = [
        test
        for name in ("alerts", "drift")
        for test in yaml.safe_load((DEPLOY / f"prometheus/{name}.test.yml").read_text())["tests"]
    ]
    tried = [
        each
        for test in tests
        for each in test.get("alert_rule_test", [])
        if each["alertname"] == alert
    ]
    assert any(t.get("exp_alerts") for t in tried), "no test in which it fires"
    assert sum("exp_alerts" not in t for t in tried) >= 4, (
        "tests without the alert: busy, idle, new, too early"
    )
    severity = ALERTS[alert]["labels"]["severity"]
    assert f"\n| `{alert}`, {severity} |" in OPERATIONS
    assert {"summary", "description"} == set(ALERTS[alert]["annotations"])
