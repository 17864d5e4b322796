"""How many HTTP workers a machine gets."""

from pathlib import Path

from app.config.settings import Settings

FEW_CORES = 4  # on which one process is as fast
MAX_WORKERS = 16
CORES_PER_WORKER = 3  # on a CPU: decoding and HTTP take about a third of a photo's time
GPUS = Path("/proc/driver/nvidia/gpus")


def choose_workers(settings: Settings, cores: int, gpus: Path = GPUS) -> tuple[int, str]:
    """The number of HTTP workers, and why; 0 for a single process."""
    if settings.http_workers != "auto":
        return settings.http_workers, "as set"
    if cores <= FEW_CORES:
        return 0, f"auto: one process is as fast on {cores} cores"
    if settings.device.startswith("cuda") or (settings.device == "auto" and gpus.is_dir()):
        return min(cores - 2, MAX_WORKERS), f"auto: a GPU, and {cores} cores to decode"
    workers = min(max(1, cores // CORES_PER_WORKER), MAX_WORKERS)
    return workers, f"auto: a third of {cores} cores for decoding and HTTP"
