"""The Horizontal Pod Autoscaler: its formula, stabilisation windows and policies.

https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/
"""

import math
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"
SYNC = 15.0  # seconds between two decisions; Kubernetes' default
TOLERANCE = 0.1  # relative difference from the target that changes nothing; Kubernetes' default


@dataclass(frozen=True, slots=True)
class Policy:
    """A limit on the change within a period in seconds: ``value`` replicas, or percent of them."""

    percent: bool
    value: int
    period: float


@dataclass(frozen=True, slots=True)
class Direction:
    """The behaviour in one direction; ``window`` is for stabilisation, in seconds."""

    window: float
    policies: tuple[Policy, ...]


@dataclass(frozen=True, slots=True)
class Scaling:
    """The settings of an autoscaler.

    Attributes:
        targets: of each trigger, per replica.
        least, most: numbers of replicas.
        rates: seconds that the rates in the queries cover; scrape: seconds between two scrapes.
    """

    targets: Mapping[str, float]
    least: int
    most: int
    up: Direction
    down: Direction
    rates: float
    scrape: float


def read_scaling(directory: Path = KUBERNETES) -> Scaling:
    """The settings that this project ships."""
    spec = yaml.safe_load((directory / "keda/scaled-object.yml").read_text())["spec"]
    monitor = yaml.safe_load((directory / "monitoring/service-monitor.yml").read_text())["spec"]
    behaviour = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    (rates,) = {
        int(seconds)
        for trigger in spec["triggers"]
        for seconds in re.findall(r"\[(\d+)s\]", trigger["metadata"]["query"])
    }
    return Scaling(
        {each["name"]: float(each["metadata"]["threshold"]) for each in spec["triggers"]},
        spec["minReplicaCount"],
        spec["maxReplicaCount"],
        _direction(behaviour["scaleUp"]),
        _direction(behaviour["scaleDown"]),
        rates,
        int(monitor["endpoints"][0]["interval"].removesuffix("s")),
    )


def _direction(found: Mapping[str, Any]) -> Direction:
    return Direction(
        found["stabilizationWindowSeconds"],
        tuple(
            Policy(each["type"] == "Percent", each["value"], each["periodSeconds"])
            for each in found["policies"]
        ),
    )


class Autoscaler:
    """Decides on the number of replicas; the metrics are of type AverageValue."""

    def __init__(self, scaling: Scaling) -> None:
        self.replicas = scaling.least
        self._scaling = scaling
        self._recommended: deque[tuple[float, int]] = deque()
        self._changes: list[tuple[float, int]] = []

    def sync(self, now: float, totals: Mapping[str, float | None]) -> int:
        """Decide by the total of each metric, which is ``None`` if its query has no result."""
        wanted = self._recommend(totals)
        self._recommended.append((now, wanted))
        after = min(max(self._stabilised(now), self._lowest(now)), self._highest(now))
        after = min(max(after, self._scaling.least), self._scaling.most)
        if after != self.replicas:
            self._changes.append((now, after - self.replicas))
            self.replicas = after
        return after

    def _recommend(self, totals: Mapping[str, float | None]) -> int:
        found = []
        for name, target in self._scaling.targets.items():
            total = totals[name]
            if total is not None:
                near = abs(total / (target * self.replicas) - 1) <= TOLERANCE
                found.append(self.replicas if near else math.ceil(total / target))
        wanted = max(found, default=self.replicas)
        if len(found) < len(self._scaling.targets):  # only scale up by what is known
            wanted = max(wanted, self.replicas)
        return min(max(wanted, self._scaling.least), self._scaling.most)

    def _stabilised(self, now: float) -> int:
        up, down = self._scaling.up.window, self._scaling.down.window
        while self._recommended[0][0] < now - max(up, down):
            self._recommended.popleft()
        lowest = min(wanted for when, wanted in self._recommended if when >= now - up)
        highest = max(wanted for when, wanted in self._recommended if when >= now - down)
        return min(max(self.replicas, lowest), highest)

    def _highest(self, now: float) -> int:
        limits = []
        for policy in self._scaling.up.policies:
            start = self.replicas - self._changed(now, policy.period)
            more = math.ceil(start * policy.value / 100) if policy.percent else policy.value
            limits.append(start + more)
        return max(*limits, self.replicas)

    def _lowest(self, now: float) -> int:
        limits = []
        for policy in self._scaling.down.policies:
            start = self.replicas - self._changed(now, policy.period)
            left = start * (1 - policy.value / 100) if policy.percent else start - policy.value
            limits.append(int(left))
        return min(*limits, self.replicas)

    def _changed(self, now: float, period: float) -> int:
        """Replicas added within the period, less those removed."""
        return sum(change for when, change in self._changes if when > now - period)
