"""Cores by affinity and by the container's quota."""

import os
from pathlib import Path

import pytest

from app.cores import usable_cores


@pytest.mark.parametrize(
    ("content", "expected"),
    [("max 100000", 8), ("200000 100000", 2), ("50000 100000", 1), ("9900000 100000", 8), ("", 8)],
)
def test_the_lower_of_affinity_and_quota_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    cgroup = tmp_path / "cpu.max"
    cgroup.write_text(content)
    assert usable_cores(cgroup) == expected


def test_without_a_cgroup_affinity_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3}, raising=False)
    assert usable_cores(tmp_path / "absent") == 2
