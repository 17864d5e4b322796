"""The peak memory of the service, and the memory limit of its container."""

import logging
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

from app.config.cpu_quota import CGROUPS
from app.config.process_plan import ONE_PROCESS, ProcessPlan
from app.config.settings import Settings

MIB = 2**20
BASE = 450 * MIB  # Python, PyTorch, OpenVINO
WORKER = 80 * MIB
MODEL = 330 * MIB  # without weights: compiled graphs, activations, leftovers of compilation
WEIGHT_COPIES = 8  # one layout per batch size, and copies while a graph is compiled
MODELS = 2  # the old and the new one during a reload
EXPLANATIONS = 1  # images decoded for explanations at the same time
# Peak while an image is decoded and converted. The worst case is WebP decoded by Pillow; WebP
# otherwise takes 4 (see `model.images.webp`), 10-bit HEIC in 4:4:4 16, and others up to 9.
BYTES_PER_PIXEL = 17
OWN_GROUPS = Path("/proc/self/cgroup")
MEMINFO = Path("/proc/meminfo")
NO_LIMIT = 2**60  # cgroup v1 writes a larger number for an unlimited group

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """The peak memory of each part of the service, in bytes.

    Attributes:
        models: the served model, and the model that replaces it during a reload.
        bodies: bodies of unanswered requests.
        decoding: images in the decoding threads, and one that each process is explaining.
        workers: of HTTP workers, with the slots that they share with engines.
    """

    base: int
    models: int
    bodies: int
    decoding: int
    workers: int

    @property
    def total(self) -> int:
        return sum(astuple(self))


def estimate_peak_memory(
    settings: Settings,
    cores: int,
    weights: int,
    plan: ProcessPlan = ONE_PROCESS,
    *,
    slot_bytes: int = 0,
) -> MemoryEstimate:
    """The memory that the service takes when every part is at its limit at the same time.

    Args:
        cores: cores that the service may use.
        weights: bytes of the model's weights.
        slot_bytes: of each slot, if there are HTTP workers.
    """
    engines, decoding_processes = len(plan.devices), max(1, plan.workers)
    threads = (settings.preprocess_workers or plan.decoders(cores)) + EXPLANATIONS
    return MemoryEstimate(
        base=engines * BASE,
        models=engines * MODELS * (MODEL + WEIGHT_COPIES * weights),
        bodies=settings.max_queue_bytes,
        decoding=decoding_processes * threads * BYTES_PER_PIXEL * settings.max_pixels,
        workers=plan.workers * WORKER + slot_bytes * settings.max_queue_size,
    )


def memory_limit(cgroups: Path = CGROUPS, own_groups: Path = OWN_GROUPS) -> int | None:
    """The lowest memory limit, in bytes, of this process's control groups, if there is one."""
    limits = (_read_limit(path) for path in _limit_files(cgroups, own_groups))
    return min((limit for limit in limits if limit is not None), default=None)


def available_memory(
    meminfo: Path = MEMINFO, cgroups: Path = CGROUPS, own_groups: Path = OWN_GROUPS
) -> int | None:
    """Bytes that can still be allocated without swapping; ``None`` if the system does not say.

    The system and each of the process's control groups may have less than the others.
    """
    try:
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        available = 1024 * int(fields["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return None
    rooms = (_read_room(path) for path in _limit_files(cgroups, own_groups))
    return min([available, *(room for room in rooms if room is not None)])


def warn_of_memory(
    settings: Settings,
    cores: int,
    weights: int,
    limit: int | None,
    plan: ProcessPlan = ONE_PROCESS,
    *,
    slot_bytes: int = 0,
) -> None:
    """Log a warning if the container's memory limit is lower than what the service may need."""
    needed = estimate_peak_memory(settings, cores, weights, plan, slot_bytes=slot_bytes)
    if limit is not None and limit < needed.total:
        logger.warning(
            "the memory limit is %d MiB, but the service can need %d MiB: %d for itself and the "
            "model, %d for request bodies, %d for decoding; raise the limit, or lower "
            "XCIT_PREPROCESS_WORKERS, XCIT_MAX_PIXELS or XCIT_MAX_QUEUE_BYTES",
            limit // MIB,
            needed.total // MIB,
            (needed.base + needed.models + needed.workers) // MIB,
            needed.bodies // MIB,
            needed.decoding // MIB,
        )


def _limit_files(cgroups: Path, own_groups: Path) -> Iterator[Path]:
    """The limit files of the process's control groups and of all their ancestors."""
    yield cgroups / "memory.max"
    yield cgroups / "memory" / "memory.limit_in_bytes"
    try:
        lines = own_groups.read_text().splitlines()
    except OSError:
        return  # not Linux
    for line in lines:
        _, controllers, group = line.split(":", 2)
        root = cgroups / "memory" if controllers == "memory" else cgroups
        name = "memory.limit_in_bytes" if controllers == "memory" else "memory.max"
        if controllers in ("", "memory"):
            own = root / group.lstrip("/")
            yield own / name
            yield from (parent / name for parent in own.parents if parent.is_relative_to(root))


def _read_room(path: Path) -> int | None:
    """Bytes that a control group may still allocate, from the path of its limit."""
    limit = _read_limit(path)
    if limit is None:
        return None
    usage = "memory.current" if path.name == "memory.max" else "memory.usage_in_bytes"
    try:
        used = int((path.parent / usage).read_text())
        lines = (path.parent / "memory.stat").read_text().splitlines()
        numbers = {name: int(text) for name, text in (line.split() for line in lines)}
    except (OSError, ValueError):
        return limit
    # The kernel drops cached pages of files before it refuses memory.
    cached = sum(
        numbers.get(f"total_{name}", numbers.get(name, 0))
        for name in ("active_file", "inactive_file")
    )
    return max(0, limit - used + cached)


def _read_limit(path: Path) -> int | None:
    try:
        limit = int(path.read_text())
    except (OSError, ValueError):  # absent, or "max"
        return None
    return limit if limit < NO_LIMIT else None
