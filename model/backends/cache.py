"""The cache directory of compiled models; it must be private, because its content is executed."""

import logging
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

OTHERS = 0o077
OTHERS_WRITE = 0o022


def open_cache(directory: Path) -> Path | None:
    """The directory, created if missing; ``None``, with a warning, if it cannot be used.

    It is refused if it, or anything in it, belongs to another user or is writable by others.
    """
    return _open(directory, check_private)


def open_closed(directory: Path) -> Path | None:
    """Like `open_cache`, but refuses a directory that other users can enter."""
    return _open(directory, check_closed)


def _open(directory: Path, check: Callable[[Path], None]) -> Path | None:
    try:
        found = locate(directory)
        make_private(found)
        check(found)
        with tempfile.TemporaryFile(dir=found):
            return found
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        logger.warning("compiled models are not cached in %s: %s", directory, reason)
        return None


def locate(directory: Path) -> Path:
    """Expand ``~``; ``~/.cache`` becomes ``XDG_CACHE_HOME`` if that is set.

    Raises:
        RuntimeError: the home directory is unknown.
    """
    cache_home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if directory.parts[:2] == ("~", ".cache") and cache_home.is_absolute():
        return cache_home.joinpath(*directory.parts[2:])
    found = directory.expanduser()
    if found != directory and not found.is_absolute():
        raise RuntimeError("HOME must be an absolute path")
    return found


def make_private(directory: Path) -> None:
    """Create a directory, and missing parents, with access for this user only."""
    if not directory.parent.exists():
        make_private(directory.parent)
    directory.mkdir(mode=0o700, exist_ok=True)


def check_private(directory: Path) -> None:
    """Raise `PermissionError` unless only this user can change a directory and its content."""
    _check_owner(directory, directory.stat())
    for parent in directory.resolve().parents:
        if _anyone_may_rename_in(parent):
            raise PermissionError(
                f"any user can replace files in {parent}; choose another directory"
            )
    for path in directory.iterdir():
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue  # replaced by another process that is starting
        if stat.S_ISLNK(status.st_mode):
            raise PermissionError(f"{path} is a symbolic link; remove it")
        _check_owner(path, status)


def check_closed(directory: Path) -> None:
    """Raise `PermissionError` unless only this user can enter a directory."""
    status = directory.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise PermissionError(f"{directory} is a symbolic link; remove it")
    _check_owner(directory, status)
    if hasattr(os, "geteuid") and status.st_mode & OTHERS:
        raise PermissionError(f"other users can enter {directory}; remove it")


def seal(directory: Path) -> None:
    """Remove the access that the umask gave to other users."""
    for path in directory.iterdir():
        try:
            mode = stat.S_IMODE(path.lstat().st_mode)
            if mode & OTHERS:
                path.chmod(mode & ~OTHERS)
        except FileNotFoundError:
            continue


def _anyone_may_rename_in(directory: Path) -> bool:
    """Whether all users can write to a directory that is not sticky, as ``/tmp`` is."""
    mode = directory.stat().st_mode
    return os.name == "posix" and bool(mode & stat.S_IWOTH) and not mode & stat.S_ISVTX


def _check_owner(path: Path, status: os.stat_result) -> None:
    if not hasattr(os, "geteuid"):
        return  # on Windows the mode does not describe other users' access
    if status.st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to user {status.st_uid}, not to {os.geteuid()}")
    if status.st_mode & OTHERS_WRITE:
        raise PermissionError(f"other users can write to {path}; run: chmod -R go-w {path}")
