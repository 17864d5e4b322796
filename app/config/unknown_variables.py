"""``XCIT_`` variables and lines of ``.env`` that have no effect, most likely misspelt."""

import difflib
import os
from collections.abc import Iterable, Iterator
from io import StringIO

from dotenv.parser import parse_stream

from app.config.settings import (
    CLIENT_KEY,
    CLIENT_KEY_FILE,
    DOTENV,
    ENV_PREFIX,
    Settings,
    dotenv_text,
    read_dotenv,
    variable_of,
)

# The last two are variables of docker-compose.yml.
NOT_SETTINGS = {CLIENT_KEY, CLIENT_KEY_FILE, f"{ENV_PREFIX}PUBLISH", f"{ENV_PREFIX}IMAGE"}


def unknown_variables() -> list[str]:
    """A message for each ``XCIT_`` variable that is not a setting, and each bad line of ``.env``.

    Raises:
        SettingsError: ``.env`` cannot be read.
    """
    bad_lines = (
        f"{DOTENV}, line {line} has no effect; expected NAME=VALUE"
        for line in _bad_lines(dotenv_text())
    )
    return [*_unknown(os.environ, ""), *_unknown(read_dotenv(), f" in {DOTENV}"), *bad_lines]


def _unknown(names: Iterable[str], where: str) -> Iterator[str]:
    known = {variable_of(name) for name in Settings.model_fields}
    for name in sorted(names):
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known | NOT_SETTINGS:
            close = difflib.get_close_matches(name.upper(), sorted(known), n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            yield f"{name}{where} is not a setting and has no effect{hint}"


def _bad_lines(text: str) -> Iterator[int]:
    """The numbers of the lines that are neither a comment nor set a variable."""
    for binding in parse_stream(StringIO(text)):
        if binding.error:
            blank = len(binding.original.string) - len(binding.original.string.lstrip("\n"))
            yield binding.original.line + blank
