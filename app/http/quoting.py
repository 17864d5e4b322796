"""Values of clients inside messages: short, printable, and without Python's notation."""

import json

MOST = 80  # characters of a value


def quoted(value: object, most: int = MOST) -> str:
    """Text in single quotes, anything else as JSON; cut after ``most`` characters.

    Bytes are read as UTF-8. Characters that a terminal or a log would act on become U+FFFD.
    """
    if isinstance(value, bytes):
        value = value[: 4 * most].decode(errors="replace")
    if isinstance(value, str):
        return f"'{printable(value, most)}'"
    return printable(json.dumps(value, default=str, ensure_ascii=False), most)


def printable(text: str, most: int = MOST) -> str:
    """Text without the characters that a terminal or a log would act on, cut after ``most``."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:most])
    return shown + "\N{HORIZONTAL ELLIPSIS}" if len(text) > most else shown
