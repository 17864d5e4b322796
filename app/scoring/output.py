"""The output directory of a run: its lock, and its manifest, which a later run must match."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

from app.scoring.records import RESUME, ScoringError
from model.files import replacing

MANIFEST = "_manifest.json"  # readers of parquet folders skip names that begin with _
LOCK = ".lock"
FORMAT = 1
PACKAGES = ("xcit-serve", "torch", "numpy", "pillow", "pyarrow")
# Parts of the manifest that determine the rows.
DECISIVE = ("source", "model", "options")


class Output:
    """An output directory, which this process has locked.

    Attributes:
        earlier: the manifest of the run that this one continues; empty for a new directory.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.earlier = _read_manifest(directory)
        self._manifest: dict[str, Any] = {}

    def check(self, part: str, values: Mapping[str, Any]) -> None:
        """Compare a decisive part with that of the earlier run; raises `ScoringError`."""
        if self.earlier and (difference := _difference(part, self.earlier.get(part), values)):
            raise ScoringError(
                f"{self.directory}: made with other settings: {difference}; "
                "choose another directory, or repeat the command that began it"
            )

    def begin(self, run: Mapping[str, Any], **parts: Mapping[str, Any]) -> str:
        """Write the manifest, and return the digest of what determines the rows.

        Args:
            run: facts about this execution, such as the device.
            parts: one for each of `DECISIVE`.
        """
        for part in DECISIVE:
            self.check(part, parts[part])
        self._manifest = {"format": FORMAT, "complete": False, **parts, "run": run}
        self._manifest["versions"] = {name: version(name) for name in PACKAGES}
        self._manifest["versions"]["python"] = python_version()
        self._write()
        text = json.dumps({part: parts[part] for part in DECISIVE}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def finish(self, **results: Any) -> None:
        """Add the results to the manifest, which is then complete."""
        self._manifest |= {"complete": True, **results}
        self._write()

    def _write(self) -> None:
        text = json.dumps(self._manifest, indent=2)  # in ASCII: names may not be valid Unicode
        path = self.directory / MANIFEST
        try:
            with replacing(path) as partial:
                partial.write_text(f"{text}\n")
        except OSError as error:
            raise ScoringError(f"{path}: cannot be written: {error.strerror}; {RESUME}") from error


@contextmanager
def open_output(directory: Path) -> Iterator[Output]:
    """Create and lock a directory.

    Raises:
        ScoringError: it cannot be written, holds other files, or another process uses it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not (directory / MANIFEST).exists():
            others = sorted({path.name for path in directory.iterdir()} - {LOCK})
            if others:
                raise ScoringError(
                    f"{directory}: has files, such as {others[0]}, but no {MANIFEST}; "
                    "choose an empty directory"
                )
        lock = (directory / LOCK).open("wb")
    except OSError as error:
        raise ScoringError(f"{directory}: cannot be written: {error.strerror}") from error
    with lock:
        _lock(lock.fileno(), directory)
        yield Output(directory)


def _lock(file: int, directory: Path) -> None:
    """Lock the directory as long as the file is open, on systems with such locks."""
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ScoringError(f"{directory}: another process is writing to it") from error
    except OSError:
        return  # a file system without locks


def _read_manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST
    try:
        found = json.loads(path.read_text())
        known = found["format"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise ScoringError(f"{path}: not the manifest of a run") from error
    if known != FORMAT:
        raise ScoringError(f"{path}: its format is {known}; this release reads {FORMAT}")
    return dict(found)


def _difference(name: str, old: Any, new: Any) -> str | None:
    """The first value that differs; ``None`` if none does."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        differences = (
            _difference(f"{name}.{key}", old.get(key), new.get(key)) for key in {**old, **new}
        )
        return next(filter(None, differences), None)
    if isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return next(filter(None, (_difference(f"{name}[{i}]", *pair) for i, pair in pairs)), None)
    return None if old == new else f"{name} was {_short(old)} and is {_short(new)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
