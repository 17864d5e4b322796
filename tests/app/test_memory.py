"""The estimated peak memory, its documentation, and the container's limit."""

import re
from pathlib import Path

import pytest
import yaml

from app.config.memory import (
    BASE,
    BYTES_PER_PIXEL,
    MIB,
    MODEL,
    MODELS,
    NO_LIMIT,
    WEIGHT_COPIES,
    WORKER,
    available_memory,
    estimate_peak_memory,
    memory_limit,
    warn_of_memory,
)
from app.config.process_plan import ProcessPlan
from tests.documents import ROOT

from .conftest import make_settings

BUNDLED = (ROOT / "model" / "checkpoints" / "xcit-cifar10.safetensors").stat().st_size
DEPLOY = (ROOT / "docs" / "how-to" / "deploy.md").read_text()
COMPOSE = (ROOT / "docker-compose.yml").read_text()
GIB = 1024 * MIB
UNITS = {"Mi": MIB, "m": MIB, "Gi": GIB, "g": GIB}


def total(cores: int, weights: int = BUNDLED, workers: int = 0, size: int = 32) -> int:
    plan = ProcessPlan(workers, cores=cores)
    slot_bytes = 12 * size**2 if workers else 0
    settings = make_settings()
    return estimate_peak_memory(settings, cores, weights, plan, slot_bytes=slot_bytes).total


def parse(text: str) -> int:
    found = re.fullmatch(r"(\d+)(Mi|Gi|m|g)", text)
    assert found, text
    return int(found[1]) * UNITS[found[2]]


def test_every_limit_changes_the_estimate() -> None:
    settings = make_settings(preprocess_workers=3, max_pixels=1000, max_queue_bytes=5000)
    found = estimate_peak_memory(settings, 16, 7)
    assert found.total == BASE + 2 * (MODEL + 8 * 7) + 5000 + 4 * BYTES_PER_PIXEL * 1000


def test_documented_formula_matches_the_code() -> None:
    formula = " ".join(DEPLOY.partition("## Memory")[2].split("```")[1].split())
    for term in (
        f"{BASE // MIB} MiB",
        f"+ {MODELS} x ({MODEL // MIB} MiB + {WEIGHT_COPIES} x bytes of the weights)",
        "+ XCIT_MAX_QUEUE_BYTES",
        f"+ (decoding threads + 1) x {BYTES_PER_PIXEL} bytes x XCIT_MAX_PIXELS",
    ):
        assert term in formula


def test_documented_totals_match_the_code() -> None:
    rows = re.findall(r"^\| (\d+) \| ([\d.]+) GiB \| ([\d.]+) GiB \|$", DEPLOY, re.MULTILINE)
    assert [int(cores) for cores, *_ in rows] == [1, 2, 4, 8]
    for cores, bundled, large in rows:
        assert bundled == f"{total(int(cores)) / GIB:.1f}"
        assert large == f"{total(int(cores), 100_000_000) / GIB:.1f}"


def test_documented_totals_with_workers_match_the_code() -> None:
    row = r"^\| (\d+) \| (\d+) \| ([\d.]+) GiB \| ([\d.]+) GiB \|$"
    rows = re.findall(row, DEPLOY, re.MULTILINE)
    assert [(int(cores), int(workers)) for cores, workers, *_ in rows] == [(2, 2), (8, 4), (16, 14)]
    for cores, workers, bundled, large in rows:
        assert bundled == f"{total(int(cores), workers=int(workers)) / GIB:.1f}"
        assert large == f"{total(int(cores), 100_000_000, int(workers), 224) / GIB:.1f}"
    assert f"+ workers x {WORKER // MIB} MiB" in DEPLOY


def test_documented_kubernetes_memory_limit_is_that_of_the_manifest() -> None:
    manifest = (ROOT / "deploy/kubernetes/base/deployment.yml").read_text()
    container = yaml.safe_load(manifest)["spec"]["template"]["spec"]["containers"][0]
    limit = container["resources"]["limits"]["memory"]
    assert f"| memory limit {parse(limit) // GIB} GiB |" in DEPLOY


def test_compose_memory_limit_is_sufficient() -> None:
    service = yaml.safe_load(COMPOSE)["services"]["xcit"]
    assert (service["cpus"], service["mem_limit"]) == ("${CPUS:-0}", "${MEM_LIMIT:-0}")
    proposal = r"(?:XCIT_HTTP_WORKERS=(\d+) )?CPUS=(\d+) MEM_LIMIT=(\w+)"
    proposals = re.findall(proposal, COMPOSE + DEPLOY)
    assert len(proposals) == 3
    for workers, cores, memory in proposals:
        needed = total(int(cores), workers=int(workers or 0))
        assert needed <= parse(memory) < needed + GIB


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("files", "groups", "expected"),
    [
        ({}, "0::/\n", None),
        ({"memory.max": "max\n"}, "0::/\n", None),
        ({"memory.max": "3221225472\n"}, "0::/\n", 3 * GIB),
        ({"a.slice/memory.max": "1000\n"}, "0::/a.slice\n", 1000),
        ({"a/memory.max": "1000\n", "a/b/memory.max": "max\n"}, "0::/a/b\n", 1000),
        ({"memory.max": "5\n", "a/b/memory.max": "7\n"}, "0::/a/b\n", 5),
        ({"other/memory.max": "5\n"}, "0::/a/b\n", None),
        ({"memory.max": "5\n"}, "0::/../elsewhere\n", 5),
        ({"memory/memory.limit_in_bytes": "1000\n"}, "4:memory:/\n", 1000),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, "4:memory:/\n", None),
        ({"memory/docker/x/memory.limit_in_bytes": "9\n"}, "4:memory:/docker/x\n0::/\n", 9),
        ({"memory/memory.limit_in_bytes": "9\n"}, "3:cpu,cpuacct:/x\n4:memory:/docker/y\n", 9),
        ({"memory.max": "nonsense\n"}, "0::/\n", None),
    ],
)
def test_lowest_limit_of_the_control_groups_is_used(
    tmp_path: Path, files: dict[str, str], groups: str, expected: int | None
) -> None:
    for name, text in files.items():
        write(tmp_path / "cgroup" / name, text)
    write(tmp_path / "own", groups)
    assert memory_limit(tmp_path / "cgroup", tmp_path / "own") == expected


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert memory_limit(tmp_path / "absent", tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("files", "groups", "expected"),
    [
        ({}, "0::/\n", 4096),
        ({"memory.max": "max\n"}, "0::/\n", 4096),
        ({"memory.max": "3000\n"}, "0::/\n", 3000),
        ({"memory.max": "9000\n"}, "0::/\n", 4096),
        (
            {
                "memory.max": "3000\n",
                "memory.current": "2500\n",
                "memory.stat": "anon 2000\nactive_file 100\ninactive_file 300\n",
            },
            "0::/\n",
            900,
        ),
        (
            {
                "memory.max": "2000\n",
                "a/memory.max": "3000\n",
                "a/memory.current": "2500\n",
                "a/memory.stat": "anon 2500\n",
            },
            "0::/a\n",
            500,
        ),
        (
            {
                "memory/memory.limit_in_bytes": "3000\n",
                "memory/memory.usage_in_bytes": "3500\n",
                "memory/memory.stat": "inactive_file 7\ntotal_inactive_file 200\n",
            },
            "4:memory:/\n",
            0,
        ),
    ],
)
def test_available_memory_is_what_the_fullest_control_group_has_left(
    tmp_path: Path, files: dict[str, str], groups: str, expected: int
) -> None:
    for name, text in files.items():
        write(tmp_path / "cgroup" / name, text)
    write(tmp_path / "own", groups)
    write(tmp_path / "meminfo", "MemTotal: 8 kB\nMemAvailable: 4 kB\n")
    assert available_memory(tmp_path / "meminfo", tmp_path / "cgroup", tmp_path / "own") == expected


def test_available_memory_is_unknown_without_meminfo(tmp_path: Path) -> None:
    assert available_memory(tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("limit", "warned"), [(None, False), (3 * GIB, True), (4 * GIB, False), (NO_LIMIT, False)]
)
def test_low_memory_limit_is_logged(
    caplog: pytest.LogCaptureFixture, limit: int | None, warned: bool
) -> None:
    warn_of_memory(make_settings(), 2, BUNDLED, limit)
    assert ("the memory limit is 3072 MiB" in caplog.text) == warned
    if warned:
        assert f"can need {total(2) // MIB} MiB" in caplog.text
        assert "XCIT_MAX_PIXELS" in caplog.text
