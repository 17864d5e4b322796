"""CPU time, memory and files of several processes that are one service."""

import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

PROC = Path("/proc")
SUPERVISOR = "supervisor"


@dataclass(frozen=True, slots=True)
class Resources:
    """CPU time, memory and files of a process, in seconds and bytes."""

    cpu_seconds: float
    virtual_bytes: int
    resident_bytes: int
    shared_bytes: int  # of the resident ones
    open_files: int
    max_files: int


class ProcessesCollector(Collector):
    """The ``process_`` metrics of the whole service, and some of each process.

    They have the names of prometheus_client's own collector, and are sums: CPU time includes that
    of processes that have ended, and shared memory counts once. CPU time never decreases, also
    while a process has ended and is not yet reaped: a rate would count a decrease as a restart.

    Args:
        children: process ids by name, of those that run now.
    """

    def __init__(self, children: Callable[[], Mapping[str, int]]) -> None:
        self._children = children
        self._started = time.time()
        self._cpu_seconds = 0.0  # the largest total so far

    def collect(self) -> Iterator[Metric]:
        found = {
            name: resources
            for name, process in {SUPERVISOR: os.getpid(), **self._children()}.items()
            if (resources := read_resources(process))
        }
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = [*found.values()]
        total = sum(each.cpu_seconds for each in used) + ended.ru_utime + ended.ru_stime
        self._cpu_seconds = max(self._cpu_seconds, total)
        yield CounterMetricFamily(
            "process_cpu_seconds",
            "User and system CPU time of all processes of the service, in seconds.",
            value=self._cpu_seconds,
        )
        gauges = {
            "process_resident_memory_bytes": (
                "Resident memory of all processes, in bytes; shared memory counts once.",
                sum(each.resident_bytes - each.shared_bytes for each in used)
                + max((each.shared_bytes for each in used), default=0),
            ),
            "process_virtual_memory_bytes": (
                "Virtual memory of all processes, in bytes.",
                sum(each.virtual_bytes for each in used),
            ),
            "process_open_fds": (
                "Open files of all processes.",
                sum(each.open_files for each in used),
            ),
            "process_max_fds": (
                "Limits on open files, summed over all processes.",
                sum(each.max_files for each in used),
            ),
            "process_start_time_seconds": (
                "Start of the service, in seconds since the epoch.",
                self._started,
            ),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, value=value)
        cpu = CounterMetricFamily(
            "xcit_process_cpu_seconds", "CPU time of a process, in seconds.", labels=["process"]
        )
        memory = GaugeMetricFamily(
            "xcit_process_resident_memory_bytes",
            "Resident memory of a process, in bytes, with shared memory.",
            labels=["process"],
        )
        for name, each in found.items():
            cpu.add_metric([name], each.cpu_seconds)
            memory.add_metric([name], each.resident_bytes)
        yield cpu
        yield memory


def read_resources(process: int, proc: Path = PROC) -> Resources | None:
    """The resources of a process; ``None`` if it has ended."""
    directory = proc / str(process)
    try:
        stat = (directory / "stat").read_text().rpartition(")")[2].split()
        pages = [int(number) for number in (directory / "statm").read_text().split()]
        limits = (directory / "limits").read_text().splitlines()
        open_files = sum(1 for _ in (directory / "fd").iterdir())
        shared = _shared_bytes(directory)
    except OSError:
        return None
    page, ticks = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
    return Resources(
        cpu_seconds=(int(stat[11]) + int(stat[12])) / ticks,
        virtual_bytes=pages[0] * page,
        resident_bytes=pages[1] * page,
        shared_bytes=shared,
        open_files=open_files,
        max_files=_soft_limit(limits),
    )


def _shared_bytes(directory: Path) -> int:
    """Resident bytes of shared memory, without files."""
    for line in (directory / "status").read_text().splitlines():
        if line.startswith("RssShmem:"):
            return 1024 * int(line.split()[1])
    return 0


def _soft_limit(limits: list[str]) -> int:
    """The soft limit on open files."""
    (line,) = (line for line in limits if line.startswith("Max open files"))
    return int(line.split()[3])
