"""Clients' values in messages: short, printable, and not in Python's notation."""

import json

MOST = 80  # characters of a value


def quoted(value: object, most: int = MOST) -> str:
    """Text in single quotes, other values as JSON; cut after ``most`` characters.

    Bytes are decoded as UTF-8. Control characters become U+FFFD.
    """
    if isinstance(value, bytes):
        value = value[: 4 * most].decode(errors="replace")
    if isinstance(value, str):
        return f"'{printable(value, most)}'"
    return printable(json.dumps(value, default=str, ensure_ascii=False), most)


def printable(text: str, most: int = MOST) -> str:
    """Text without control characters, cut after ``most`` characters."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:most])
    return shown + "\N{HORIZONTAL ELLIPSIS}" if len(text) > most else shown
