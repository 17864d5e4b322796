"""The queries and targets by which the autoscalers scale, read from the manifests."""

import re
from typing import Any

import yaml

from .overlays import KUBERNETES, build

SCALED_OBJECT = KUBERNETES / "keda/scaled-object.yml"
MONITOR = KUBERNETES / "monitoring/service-monitor.yml"
ADAPTER = KUBERNETES / "hpa/adapter.yml"
NAMESPACE = 'namespace="default"'

SPEC: dict[str, Any] = yaml.safe_load(SCALED_OBJECT.read_text())["spec"]
QUERIES: dict[str, str] = {each["name"]: each["metadata"]["query"] for each in SPEC["triggers"]}
TARGETS = {each["name"]: float(each["metadata"]["threshold"]) for each in SPEC["triggers"]}


def adapter_rules() -> list[dict[str, Any]]:
    """The rules of prometheus-adapter."""
    return list(yaml.safe_load(ADAPTER.read_text())["rules"]["external"])


# As the adapter sends them.
ADAPTER_QUERIES = {
    rule["name"]["as"].removeprefix("xcit_"): rule["metricsQuery"].replace(
        "<<.LabelMatchers>>", NAMESPACE
    )
    for rule in adapter_rules()
}


def hpa_targets() -> dict[str, float]:
    """The targets of the autoscaler that uses the adapter."""
    autoscaler = build(KUBERNETES / "overlays/autoscale-hpa")["HorizontalPodAutoscaler"]
    return {
        each["external"]["metric"]["name"].removeprefix("xcit_"): quantity(
            each["external"]["target"]["averageValue"]
        )
        for each in autoscaler["spec"]["metrics"]
    }


def quantity(text: str) -> float:
    """The value of a quantity of Kubernetes such as ``700m``."""
    found = re.fullmatch(r"(\d+)(m?)", text)
    assert found, text
    return int(found[1]) / (1000 if found[2] else 1)
