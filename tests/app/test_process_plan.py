"""How many processes serve, by settings and machine."""

import ctypes
from typing import Any

import pytest

from app.config.gpus import visible_gpus
from app.config.process_plan import ProcessPlan, can_share_memory, plan_processes
from app.config.settings import SettingsError

from .conftest import make_settings


def plan(cores: int, gpus: int = 0, *, supported: bool = True, **settings: Any) -> ProcessPlan:
    return plan_processes(
        make_settings(**settings), cores, lambda: gpus, supported=lambda: supported
    )


@pytest.mark.parametrize(
    ("cores", "gpus", "workers", "devices", "words"),
    [
        (2, 0, 0, ("auto",), "as fast as several on 2 cores"),
        (4, 1, 0, ("auto",), "as fast as several on 4 cores"),
        (5, 1, 3, ("auto",), "5 cores, 2 of them for engines"),
        (16, 1, 14, ("auto",), "16 cores, 2 of them for engines"),
        (64, 1, 16, ("auto",), "64 cores"),
        (32, 4, 16, ("cuda:0", "cuda:1", "cuda:2", "cuda:3"), "32 cores, 4 of them for engines"),
        (4, 2, 2, ("cuda:0", "cuda:1"), "4 cores, 2 of them"),
        (2, 2, 1, ("cuda:0", "cuda:1"), "2 cores, 2 of them"),
        (16, 0, 1, ("auto",), "one while the model loads"),
    ],
)
def test_auto_follows_the_machine(
    cores: int, gpus: int, workers: int, devices: tuple[str, ...], words: str
) -> None:
    found = plan(cores, gpus)
    assert (found.workers, found.devices) == (workers, devices)
    assert found.reason.startswith("auto: ")
    assert words in found.reason
    assert found.grows == (gpus == 0 and cores > 4)


@pytest.mark.parametrize(
    ("needed", "workers"), [(0.2, 1), (1.0, 1), (3.1, 4), (11.9, 12), (20.0, 16)]
)
def test_on_a_large_cpu_workers_follow_the_measured_timings(needed: float, workers: int) -> None:
    grown = plan(24).grown(24, needed)
    assert (grown.workers, grown.grows) == (workers, False)
    assert f"{needed:.1f} of 24 cores, by measurement" in grown.reason


@pytest.mark.parametrize(
    ("settings", "gpus", "devices", "cores"),
    [
        ({"device": "cuda:1"}, 4, ("cuda:1",), 8),
        ({"device": "cpu"}, 4, ("cpu",), 8),
        ({"backend": "openvino"}, 4, ("auto",), 8),
        ({"engines": 3}, 2, ("cuda:0", "cuda:1", "cuda:0"), 8),
        ({"engines": 2}, 0, ("auto", "auto"), 4),
        ({"engines": 2, "device": "cuda:1"}, 4, ("cuda:1", "cuda:1"), 8),
    ],
)
def test_engines_get_devices_and_cores(
    settings: dict[str, Any], gpus: int, devices: tuple[str, ...], cores: int
) -> None:
    found = plan(8, gpus, http_workers=2, **settings)
    assert (found.workers, found.devices, found.cores) == (2, devices, cores)
    assert found.reason == "as configured"


def test_one_process_uses_the_device_of_the_settings() -> None:
    found = plan(16, 4, http_workers=0)
    assert (found.workers, found.devices, found.cores) == (0, ("auto",), 16)


def test_several_engines_need_workers() -> None:
    with pytest.raises(SettingsError, match="XCIT_ENGINES=2: several engines need HTTP workers"):
        plan(8, http_workers=0, engines=2)
    assert plan(2, engines=2).workers == 1, "auto makes room for them"


def test_without_shared_memory_of_linux_there_is_one_process() -> None:
    assert plan(16, supported=False).workers == 0
    assert plan(16, supported=False).reason == "auto: workers need Linux with memfd_create"
    with pytest.raises(
        SettingsError, match="XCIT_HTTP_WORKERS=3: workers need Linux with memfd_create; use 0"
    ):
        plan(16, supported=False, http_workers=3)
    with pytest.raises(SettingsError, match="XCIT_ENGINES=2"):
        plan(16, supported=False, engines=2)


def test_system_that_forbids_shared_memory_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(name: str, flags: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    assert can_share_memory()
    monkeypatch.setattr("os.memfd_create", forbidden)
    assert not can_share_memory()
    assert plan_processes(make_settings(), 16, lambda: 1).workers == 0


@pytest.mark.parametrize(
    ("workers", "cores", "decoders"), [(0, 8, 8), (1, 8, 8), (3, 8, 3), (14, 16, 2), (2, 2, 2)]
)
def test_decoding_threads_are_divided_among_workers(
    workers: int, cores: int, decoders: int
) -> None:
    assert ProcessPlan(workers).decoders(cores) == decoders
    assert ProcessPlan(1, grows=True).decoders(64) == 2


class Driver:
    """A CUDA driver with some GPUs."""

    def __init__(self, gpus: int, result: int = 0) -> None:
        self._gpus = gpus
        self._result = result

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self._result

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        ctypes.cast(count, ctypes.POINTER(ctypes.c_int))[0] = self._gpus
        return 0


@pytest.mark.parametrize(
    ("driver", "supported", "found"),
    [(Driver(3), True, 3), (Driver(3), False, 0), (Driver(3, result=100), True, 0)],
)
def test_gpus_are_counted_by_the_driver(driver: Driver, supported: bool, found: int) -> None:
    assert visible_gpus(lambda name: driver, lambda: supported) == found


def test_without_a_driver_there_are_no_gpus() -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    assert visible_gpus(missing) == 0


def test_support_of_the_installed_pytorch_is_read_without_importing_it() -> None:
    import torch

    expected = 1 if torch.version.cuda else 0
    assert visible_gpus(lambda name: Driver(1)) == expected
