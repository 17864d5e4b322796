"""Anonymous shared memory that child processes inherit by its file descriptor."""

import fcntl
import mmap
import os

from app.config.memory import available_memory
from app.serving.errors import StartupError

# Memory must not shrink while it is mapped, and these seals cannot be removed.
SEALS = ("F_SEAL_SHRINK", "F_SEAL_SEAL")


class SharedMemory:
    """Memory that has no name and needs no clean-up. It can grow, which views do not notice.

    Memory is allocated at once, so that a shortage is an error here and not a SIGBUS at a later
    access. It does not depend on ``/dev/shm``.

    Args:
        descriptor: from `create` in this process, or inherited.

    Attributes:
        view: the memory as it was at `map`.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.map()

    @classmethod
    def create(cls, size: int) -> "SharedMemory":
        """New memory of at least one byte, filled with zeros; raises as `grow` does."""
        descriptor = os.memfd_create("xcit-serve", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            _allocate(descriptor, 0, size)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _seals())
            return cls(descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def __len__(self) -> int:
        return len(self.view)

    def grow(self, size: int) -> int:
        """Add memory, and map all of it; returns where the new memory begins.

        Raises:
            StartupError: there is not enough memory.
        """
        begin = os.fstat(self.descriptor).st_size
        _allocate(self.descriptor, begin, size)
        self.map()
        return begin

    def map(self) -> None:
        """Map the memory as it is now. Earlier views stay valid."""
        size = os.fstat(self.descriptor).st_size
        self.view = memoryview(mmap.mmap(self.descriptor, size))


def _allocate(descriptor: int, begin: int, size: int) -> None:
    available = available_memory()
    if available is not None and size > available:  # the kernel would kill processes for it
        raise StartupError(_shortage(size, f"{available:,} are available"))
    try:
        os.posix_fallocate(descriptor, begin, size)
    except OSError as error:
        raise StartupError(_shortage(size, str(error.strerror))) from error


def _shortage(size: int, reason: str) -> str:
    return (
        f"{size:,} bytes of shared memory cannot be allocated: {reason}; "
        "lower XCIT_MAX_QUEUE_SIZE, or set XCIT_HTTP_WORKERS=0"
    )


def _seals() -> int:
    seals = 0
    for name in SEALS:
        seals |= getattr(fcntl, name)
    return seals
