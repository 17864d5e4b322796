"""Output of commands: results on stdout, messages on stderr."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

INTERRUPTED = 130  # exit code of a process that SIGINT ended, in shells


def complain(*lines: str, code: int = 1) -> int:
    """Print each message on a line of stderr, and return the exit code."""
    for line in lines:
        print(f"xcit-serve: {printable(line)}", file=sys.stderr)
    return code


def printable(text: str) -> str:
    """A text on one line, with control characters escaped: it may come from a server."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text
    )


def show(*lines: str) -> None:
    """Print each line on stdout."""
    for line in lines:
        print(line)


def show_answers(answers: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Print the best classes of each file, as a table or as JSON."""
    if as_json:
        print(json.dumps(answers, indent=2, ensure_ascii=False))
        return
    width = max((len(answer["file"]) for answer in answers), default=0)
    for answer in answers:
        for rank, row in enumerate(answer["predictions"]):
            file = answer["file"] if rank == 0 else ""
            print(f"{file:<{width}}  {row['score']:6.2%}  {printable(row['label'])}")
