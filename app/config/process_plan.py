"""How many processes serve: HTTP workers, and engines with their devices."""

import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from app.config.gpus import visible_gpus
from app.config.settings import ENV_PREFIX, MAX_ENGINES, Settings, SettingsError

CONFIGURED = "as configured"
SMALL = 4  # cores on which one process is as fast as several
MAX_WORKERS = 16  # that are chosen automatically
MIN_DECODERS = 2  # per worker: one decodes while another waits for the interpreter lock
SPARE_CORES = 2  # at least, that workers leave to engines and the system on a machine with GPUs


@dataclass(frozen=True, slots=True)
class ProcessPlan:
    """The processes of the service.

    Attributes:
        workers: number of HTTP workers; 0 if one process does everything.
        reason: why this number was chosen.
        devices: the device of each engine.
        cores: CPU cores of each engine.
        grows: whether workers are added once the first engine has measured how many are needed.
    """

    workers: int = 0
    reason: str = CONFIGURED
    devices: Sequence[str] = ("auto",)
    cores: int = 1
    grows: bool = False

    def decoders(self, cores: int) -> int:
        """Decoding threads of each worker, unless the settings name a number."""
        if not self.workers:
            return cores
        return MIN_DECODERS if self.grows else max(MIN_DECODERS, math.ceil(cores / self.workers))

    def grown(self, cores: int, needed: float) -> "ProcessPlan":
        """The plan with as many workers as decoding and HTTP need.

        Args:
            cores: that the service may use.
            needed: how many of them are busy with decoding and HTTP at full throughput.
        """
        workers = max(1, min(math.ceil(needed), cores, MAX_WORKERS))
        reason = (
            f"auto: at full throughput, decoding and HTTP take {needed:.1f} of {cores} cores, by "
            "measurement"
        )
        return replace(self, workers=workers, reason=reason, grows=False)


ONE_PROCESS = ProcessPlan()


def can_share_memory() -> bool:
    """Whether the system has anonymous files in memory; containers may forbid them."""
    if sys.platform != "linux":
        return False
    try:
        os.close(os.memfd_create("xcit-serve", os.MFD_CLOEXEC))
    except OSError:
        return False
    return True


def plan_processes(
    settings: Settings,
    cores: int,
    gpus: Callable[[], int] = visible_gpus,
    *,
    supported: Callable[[], bool] = can_share_memory,
) -> ProcessPlan:
    """Plan the processes of the service from its settings and the machine.

    Args:
        cores: that the service may use.
        gpus: counts the GPUs that are visible.
        supported: whether the system has shared memory of the kind that workers need.

    Raises:
        SettingsError: the settings contradict each other or the system.
    """
    wanted, several = settings.http_workers, (settings.engines or 1) > 1
    possible = wanted != 0 and supported()
    if several and wanted == 0:
        raise SettingsError(
            f"{ENV_PREFIX}ENGINES={settings.engines}: several engines need HTTP workers; set "
            f"{ENV_PREFIX}HTTP_WORKERS to auto, or to 1 or more"
        )
    if several and not possible:
        raise SettingsError(
            f"{ENV_PREFIX}ENGINES={settings.engines}: several engines need Linux with memfd_create"
        )
    if not possible and wanted not in ("auto", 0):
        raise SettingsError(
            f"{ENV_PREFIX}HTTP_WORKERS={wanted}: workers need Linux with memfd_create; use 0"
        )
    if not possible:
        reason = "auto: workers need Linux with memfd_create" if wanted == "auto" else CONFIGURED
        return ProcessPlan(reason=reason, devices=(settings.device,), cores=cores)
    kind = settings.device.partition(":")[0]
    found = gpus() if kind in ("auto", "cuda") and settings.backend != "openvino" else 0
    devices = _devices(settings, found)
    engine_cores = cores if found else max(1, cores // len(devices))
    if wanted != "auto":
        return ProcessPlan(int(wanted), devices=devices, cores=engine_cores)
    if cores <= SMALL and len(devices) == 1:
        return ProcessPlan(
            devices=devices,
            cores=cores,
            reason=f"auto: one process is as fast as several on {cores} cores",
        )
    if found:
        spare = max(SPARE_CORES, len(devices))
        workers = max(1, min(cores - spare, MAX_WORKERS))
        reason = f"auto: {cores} cores, {spare} of them for engines and the system"
        return ProcessPlan(workers, reason, devices, engine_cores)
    return ProcessPlan(1, "auto: one while the model loads", devices, engine_cores, grows=True)


def _devices(settings: Settings, gpus: int) -> tuple[str, ...]:
    """The device of each engine: with ``auto``, engines are shared among all visible GPUs."""
    if settings.device == "auto" and gpus > 1:
        engines = settings.engines or min(gpus, MAX_ENGINES)
        return tuple(f"cuda:{number % gpus}" for number in range(engines))
    return (settings.device,) * (settings.engines or 1)
