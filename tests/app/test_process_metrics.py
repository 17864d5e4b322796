"""Metrics of several processes as one service."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from app.observability.process_metrics import ProcessesCollector, read_resources

MIB = 2**20
HOLD = "import sys; block = b'x' * 2**26; sys.stdin.read()"


@pytest.fixture
def child() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that holds 64 MiB until its input ends."""
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE)
    found = None
    end = time.monotonic() + 30
    while not found or found.resident_bytes < 64 * MIB:
        assert time.monotonic() < end
        time.sleep(0.01)
        found = read_resources(process.pid)
    yield process
    process.communicate(b"")


def read(children: dict[str, int], name: str, **labels: str) -> float | None:
    registry = CollectorRegistry()
    registry.register(ProcessesCollector(lambda: children))
    return registry.get_sample_value(name, labels)


def test_memory_and_files_are_sums(child: "subprocess.Popen[bytes]") -> None:
    children = {"worker-0": child.pid}
    for name in ("process_resident_memory_bytes", "process_open_fds", "process_max_fds"):
        alone, both = read({}, name), read(children, name)
        assert alone
        assert both
        assert both > alone
    memory = read(children, "xcit_process_resident_memory_bytes", process="worker-0")
    assert memory
    assert memory >= 64 * MIB
    own = read(children, "xcit_process_resident_memory_bytes", process="supervisor")
    resources = read_resources(os.getpid())
    assert own
    assert resources
    assert own == pytest.approx(resources.resident_bytes, rel=0.1)


def test_cpu_time_of_ended_processes_is_kept() -> None:
    name = "process_cpu_seconds_total"
    before = read({}, name)
    work = "import time\nwhile time.process_time() < 0.3: pass"
    process = subprocess.Popen([sys.executable, "-c", work])
    process.wait()
    after = read({"worker-0": process.pid}, name)
    assert before is not None
    assert after is not None
    assert after - before >= 0.3
    assert (
        read({"worker-0": process.pid}, "xcit_process_cpu_seconds_total", process="worker-0")
        is None
    )


def test_cpu_time_does_not_decrease_before_an_ended_process_is_reaped() -> None:
    work = "import time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True)\ninput()"
    process = subprocess.Popen(
        [sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin
    assert process.stdout
    process.stdout.readline()
    running = {"worker-0": process.pid}
    registry = CollectorRegistry()
    registry.register(ProcessesCollector(lambda: running))
    before = registry.get_sample_value("process_cpu_seconds_total")
    process.stdin.close()
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    running.clear()
    after = registry.get_sample_value("process_cpu_seconds_total")
    process.wait()
    process.stdout.close()
    assert before is not None
    assert after is not None
    assert after >= before


def test_each_process_has_its_cpu_time(child: "subprocess.Popen[bytes]") -> None:
    total = read({"engine-0": child.pid}, "xcit_process_cpu_seconds_total", process="engine-0")
    assert total is not None
    assert 0.0 < total < 30.0
