"""File names from shell patterns: ``photos-{000..009}.tar``, ``{a,b}.tar``, ``*.parquet``."""

import glob
import re
from collections.abc import Iterator
from pathlib import Path

from app.scoring.records import ScoringError

BRACES = re.compile(r"\{(?:(?P<first>\d+)\.\.(?P<last>\d+)|(?P<words>[^{}]*,[^{}]*))\}")
MOST = 100_000  # names of one pattern


def expand(pattern: str) -> list[Path]:
    """The files that a pattern names, in order; a name that exists is not a pattern.

    Raises:
        ScoringError: no file matches.
    """
    if Path(pattern).exists():
        return [Path(pattern)]
    found: list[Path] = []
    for name in _without_braces(pattern):
        matches = [Path(match) for match in sorted(glob.glob(name, recursive=True))]  # noqa: PTH207
        if not matches:
            reason = "no file matches" if glob.has_magic(name) else "no such file or folder"
            raise ScoringError(f"{name}: {reason}")
        found += matches
        if len(found) > MOST:
            raise ScoringError(f"{pattern}: more than {MOST} files")
    return found


def _without_braces(pattern: str) -> Iterator[str]:
    braces = BRACES.search(pattern)
    if braces is None:
        yield pattern
        return
    for word in _words(braces):
        yield from _without_braces(pattern[: braces.start()] + word + pattern[braces.end() :])


def _words(braces: "re.Match[str]") -> Iterator[str]:
    if braces["words"] is not None:
        yield from braces["words"].split(",")
        return
    first, last = int(braces["first"]), int(braces["last"])
    step = 1 if first <= last else -1
    padded = braces["first"].startswith("0") or braces["last"].startswith("0")
    width = max(map(len, (braces["first"], braces["last"]))) if padded else 0
    for number in range(first, last + step, step):
        yield f"{number:0{width}}"
