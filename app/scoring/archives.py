"""Images in tar archives, named as webdataset does: files with the same key are one sample."""

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from app.scoring.records import (
    NO_IMAGE,
    UNREADABLE,
    Failure,
    Record,
    ScoringError,
    as_id,
    too_large,
)
from model.images.formats import SUFFIXES

DAMAGE = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError)
COMPRESSED: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZ": bz2.open,
    b"\xfd7": lzma.open,
}
NO_MARKER = "it has no end marker; files may be missing"


class TarSource:
    """The images of one or several archives, plain or compressed, read from start to end.

    The key of a sample is its name up to the first dot after the last slash. The id of an image is
    the key, or its whole name if the sample has several images. A sample without an image has a
    failure. After damage in an archive, the next one is read.
    """

    total = None

    def __init__(self, paths: Sequence[Path], max_bytes: int) -> None:
        self._archives = [_check(path) for path in paths]
        self._max_bytes = max_bytes
        self.share = 0.0
        self.problems: list[str] = []
        self.description: dict[str, Any] = {"kind": "tar", "files": self._archives}

    def records(self, start: int = 0) -> Iterator[Record]:
        self.problems.clear()
        size = sum(archive["bytes"] for archive in self._archives)
        position = before = 0
        for listed in self._archives:
            with Archive(Path(listed["path"])) as archive:
                samples = _Samples(archive, max(0, start - position), self._max_bytes)
                for record in samples:
                    self.share = (before + archive.place) / size
                    if position >= start:
                        yield record
                    position += 1
            if samples.damage:
                self.problems.append(f"{listed['path']}: {samples.damage}")
            before += listed["bytes"]


def _check(path: Path) -> dict[str, Any]:
    """The properties that identify an archive; raises `ScoringError` if it cannot be read."""
    try:
        status = path.stat()
        with Archive(path):
            pass
    except DAMAGE as error:
        raise ScoringError(f"{path}: not a readable tar archive: {reason(error)}") from error
    return {
        "path": str(path.resolve()),
        "bytes": status.st_size,
        "modified_ns": status.st_mtime_ns,
    }


def reason(error: Exception) -> str:
    """The text of an error of the operating system, or of a library."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def key_of(name: str) -> str:
    """The key of the sample that a file belongs to."""
    folder, slash, base = name.rpartition("/")
    return f"{folder}{slash}{base.partition('.')[0]}"


@dataclass(slots=True)
class _Sample:
    """The sample that is being read, and its first image until it is known to be the only one."""

    key: str
    first: Record | None = None
    name: str = ""  # of the first image
    images: int = 0


class _Samples:
    """The records of one archive; images before number ``start`` are not read.

    Attributes:
        damage: where the archive could not be read further, and why.
    """

    def __init__(self, archive: "Archive", start: int, max_bytes: int) -> None:
        self._archive = archive
        self._start = start
        self._max_bytes = max_bytes
        self._made = 0  # records
        self._last: tarfile.TarInfo | None = None
        self.damage: str | None = None

    def __iter__(self) -> Iterator[Record]:
        sample: _Sample | None = None
        members = self._archive.members()
        while not self.damage:
            try:
                member = next(members, None)
            except DAMAGE as error:
                self._stop(error)
                break
            if member is None:
                break
            self._last = member
            key = key_of(member.name)
            if sample is None or key != sample.key:
                yield from self._finish(sample)
                sample = _Sample(key)
            if PurePosixPath(member.name).suffix.lower() in SUFFIXES:
                yield from self._add(sample, member)
        yield from self._finish(sample)

    def _add(self, sample: _Sample, member: tarfile.TarInfo) -> Iterator[Record]:
        """Add an image to a sample; with the second one, both have their whole names as ids."""
        name = as_id(member.name)
        record = Record(name, self._read(member), self._archive.name)
        self._made += 1
        sample.images += 1
        if sample.images == 1:
            sample.first, sample.name = record, name
            return
        if sample.first:
            yield replace(sample.first, id=sample.name)
            sample.first = None
        yield record

    def _finish(self, sample: _Sample | None) -> Iterator[Record]:
        if sample and sample.first:
            yield replace(sample.first, id=as_id(sample.key))
        elif sample and not sample.images:
            self._made += 1
            failure = Failure(NO_IMAGE, "the sample has no image")
            yield Record(as_id(sample.key), failure, self._archive.name)

    def _read(self, member: tarfile.TarInfo) -> bytes | Failure:
        if member.size > self._max_bytes:
            return too_large(member.size, self._max_bytes)
        if self._made < self._start and not self._archive.compressed:
            return b""
        try:
            return self._archive.read(member)
        except DAMAGE as error:
            self._stop(error)
            return Failure(UNREADABLE, f"the archive is damaged: {reason(error)}")

    def _stop(self, error: Exception) -> None:
        last = self._last
        place = f"in or after {as_id(last.name)}, at byte {last.offset}" if last else "at its start"
        self.damage = f"damaged {place}: {reason(error)}"


class Archive:
    """A tar archive, read from start to end in constant memory; raises one of `DAMAGE`."""

    def __init__(self, path: Path) -> None:
        self.name = as_id(str(path))
        self._raw = path.open("rb")
        try:
            opener = COMPRESSED.get(self._raw.read(2))
            self._raw.seek(0)
            self.compressed = opener is not None
            plain = opener(self._raw) if opener else self._raw
            self._stream = _LastRead(cast(IO[bytes], plain))
            self._tar = tarfile.TarFile(
                fileobj=cast(IO[bytes], self._stream), encoding="utf-8", errors="surrogateescape"
            )
        except BaseException:
            self._raw.close()
            raise

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *_: object) -> None:
        self._tar.close()
        self._raw.close()

    @property
    def place(self) -> int:
        """The position in the file, which may be compressed."""
        return self._raw.tell()

    def members(self) -> Iterator[tarfile.TarInfo]:
        """The regular files that are not hidden."""
        while member := self._tar.next():
            self._tar.members.clear()  # type: ignore[attr-defined]  # otherwise it keeps every member
            if member.isreg() and not member.name.rpartition("/")[2].startswith("."):
                yield member
        # `tarfile` ends silently at a header that is damaged or missing.
        if not self._stream.last:
            raise tarfile.ReadError(NO_MARKER)
        if self._stream.last.strip(b"\0"):
            raise tarfile.ReadError("the header of a file is damaged")

    def read(self, member: tarfile.TarInfo) -> bytes:
        file = self._tar.extractfile(member)
        assert file is not None
        with file:
            return file.read()


class _LastRead:
    """A file that keeps what was read last."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        self.last = self._file.read(size)
        return self.last
