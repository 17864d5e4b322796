"""Anonymous shared memory that child processes inherit by its file descriptor."""

import fcntl
import mmap
import os

from app.config.memory import available_memory
from app.serving.errors import StartupError

# It must not shrink or grow while it is mapped, and these seals cannot be removed.
SEALS = ("F_SEAL_SHRINK", "F_SEAL_GROW", "F_SEAL_SEAL")


class SharedMemory:
    """A mapping of memory that has no name and needs no clean-up.

    The memory is allocated at once, so that a shortage is an error here and not a SIGBUS at a later
    access. It does not depend on ``/dev/shm``.

    Attributes:
        descriptor: to be passed to a child process, which maps it with `attach`.
        view: the memory.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self.descriptor = descriptor
        self._mapping = mmap.mmap(descriptor, size)
        self.view = memoryview(self._mapping)

    @classmethod
    def create(cls, size: int) -> "SharedMemory":
        """New memory, filled with zeros.

        Raises:
            StartupError: the system has no such memory, or not enough of it.
        """
        if not hasattr(os, "memfd_create"):
            raise StartupError("shared memory needs Linux; set XCIT_HTTP_WORKERS=0")
        available = available_memory()
        if available is not None and size > available:  # the kernel would kill processes for it
            raise StartupError(_shortage(size, f"{available:,} are available"))
        descriptor = os.memfd_create("xcit-serve", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.posix_fallocate(descriptor, 0, size)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _seals())
            return cls(descriptor, size)
        except OSError as error:
            os.close(descriptor)
            raise StartupError(_shortage(size, str(error.strerror))) from error

    @classmethod
    def attach(cls, descriptor: int) -> "SharedMemory":
        """The memory behind an inherited descriptor."""
        return cls(descriptor, os.fstat(descriptor).st_size)

    def close(self) -> None:
        """Unmap the memory; views of it must have been released."""
        self.view.release()
        self._mapping.close()
        os.close(self.descriptor)


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
