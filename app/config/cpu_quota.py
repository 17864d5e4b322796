"""The number of cores that this process may use."""

import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def usable_cores(cgroups: Path = CGROUPS) -> int:
    """The cores of the process's affinity or, if lower, of the container's quota; at least 1."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    try:
        quota, period = _quota(cgroups)
    except (OSError, ValueError):
        return cores
    return max(1, min(cores, quota // period)) if quota > 0 else cores


def _quota(cgroups: Path) -> tuple[int, int]:
    """Microseconds of CPU time per period, and the period; 0 or less means no limit."""
    if (unified := cgroups / "cpu.max").exists():
        quota, period = unified.read_text().replace("max", "0").split()
    else:  # cgroup v1
        quota = (cgroups / "cpu" / "cpu.cfs_quota_us").read_text()
        period = (cgroups / "cpu" / "cpu.cfs_period_us").read_text()
    return int(quota), int(period)
