"""Images in files: those below a folder, or those that a text file lists."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from app.scoring.records import UNREADABLE, Failure, Record, ScoringError, as_id
from model.images.formats import SUFFIXES


class FolderSource:
    """The images below a folder, by suffix, in the order of their names.

    Hidden files and folders are skipped. Links to folders are followed, except back to a folder
    that contains them.
    """

    share = 0.0
    problems: Sequence[str] = ()

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        digest = hashlib.sha256()
        self.total = 0
        try:
            for record in self.records():
                digest.update(record.id.encode() + b"\0")
                self.total += 1
        except OSError as error:
            raise ScoringError(f"{folder}: cannot be read: {error.strerror}") from error
        if not self.total:
            raise ScoringError(f"{folder}: no images; expected files ending in {_suffixes()}")
        self.description: dict[str, Any] = {
            "kind": "folder",
            "path": str(folder.resolve()),
            "names_sha256": digest.hexdigest(),
        }

    def records(self, start: int = 0) -> Iterator[Record]:
        return islice(self._walk(), start, None)

    def _walk(self) -> Iterator[Record]:
        folders = [self._folder]  # from the top to the current one
        waiting = [_listing(self._folder)]
        while waiting:
            entry = next(waiting[-1], None)
            if entry is None:
                waiting.pop()
                folders.pop()
                continue
            path = Path(entry.path)
            name = as_id(path.relative_to(self._folder).as_posix())
            if not _is_folder(entry):
                if path.suffix.lower() in SUFFIXES:
                    yield Record(name, path)
                continue
            if entry.is_symlink() and any(path.samefile(folder) for folder in folders):
                continue
            try:
                waiting.append(_listing(path))
                folders.append(path)
            except OSError as error:
                yield Record(f"{name}/", Failure(UNREADABLE, str(error.strerror)))


def _listing(folder: Path) -> Iterator["os.DirEntry[str]"]:
    """The entries of a folder that are not hidden, by name."""
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not entry.name.startswith(".")]
    return iter(sorted(shown, key=lambda entry: entry.name))


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _suffixes() -> str:
    return ", ".join(sorted(SUFFIXES))


class ListSource:
    """The files that a text file lists, one per line; relative paths start at its folder."""

    share = 0.0
    problems: Sequence[str] = ()

    def __init__(self, path: Path) -> None:
        self._path = path
        digest = hashlib.sha256()
        self.total = 0
        try:
            with path.open("rb") as file:
                if b"\0" in file.read(8192):
                    raise ScoringError(f"{path}: not a text file of paths")
            for line in self._lines():
                digest.update(line + b"\n")
                self.total += 1
        except OSError as error:
            raise ScoringError(f"{path}: cannot be read: {error.strerror}") from error
        if not self.total:
            raise ScoringError(f"{path}: no paths; expected one per line")
        self.description: dict[str, Any] = {
            "kind": "text",
            "path": str(path.resolve()),
            "lines_sha256": digest.hexdigest(),
        }

    def records(self, start: int = 0) -> Iterator[Record]:
        for line in islice(self._lines(), start, None):
            name = os.fsdecode(line)
            yield Record(as_id(name), self._path.parent / name)

    def _lines(self) -> Iterator[bytes]:
        """The lines that are not empty, without a byte-order mark."""
        with self._path.open("rb") as file:
            for number, line in enumerate(file):
                text = line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
                if text := text.strip(b"\r\n"):
                    yield text
