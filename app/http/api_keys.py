"""Who may ask: named keys, of which only hashes are kept.

A keys file has a line ``NAME:SHA-256 of the key in hex`` for each; empty lines and those that
begin with ``#`` do not count. Keys are long and random, so a plain hash gives nothing away.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

from app.config.settings import SettingsError
from app.serving.errors import Unauthorized

NAME = re.compile(r"[\w.@-]{1,64}", re.ASCII)
LINE = re.compile(rf"(?P<name>{NAME.pattern}):(?P<digest>[0-9a-f]{{64}})", re.ASCII)


class KeysError(SettingsError):
    """A keys file that cannot be used; the text says why."""


class ApiKeys:
    """The keys of a file; raises `KeysError` if it is not as it should be."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names: dict[bytes, str] = read_keys(path)

    def read_again(self) -> Callable[[], None]:
        """Read the file; the keys in it are used once the result is called.

        Raises:
            KeysError: the file cannot be used.
        """
        names = read_keys(self._path)

        def activate() -> None:
            self._names = names

        return activate

    def name_of(self, headers: Mapping[str, str]) -> str:
        """The name of the key in ``Authorization: Bearer …`` or ``X-API-Key``.

        Raises:
            Unauthorized: there is none, or it is unknown.
        """
        key = bearer(headers) or headers.get("x-api-key", "")
        if not key:
            raise Unauthorized("a key is needed: send Authorization: Bearer KEY, or X-API-Key: KEY")
        digest = hashlib.sha256(key.encode()).digest()
        found = None
        for known, name in self._names.items():  # all of them: time tells nothing of which
            if hmac.compare_digest(digest, known):
                found = name
        if found is None:
            raise Unauthorized("the key is unknown; ask for one, or look for a slip of the pen")
        return found


def read_keys(path: Path) -> dict[bytes, str]:
    """Names by hash."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise KeysError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeError as error:
        raise KeysError(f"{path}: cannot be read as UTF-8 text") from error
    names: dict[bytes, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = LINE.fullmatch(line.strip())
        if not match:
            raise KeysError(f"{path}, line {number}: must be NAME:SHA-256 of the key")
        if match["name"] in names.values():
            raise KeysError(f"{path}, line {number}: the name {match['name']} is there twice")
        digest = bytes.fromhex(match["digest"])
        if digest in names:
            raise KeysError(
                f"{path}, line {number}: {match['name']} has the key of {names[digest]}; "
                "use a different key for each name"
            )
        names[digest] = match["name"]
    if not names:
        raise KeysError(f"{path}: there is no key in it; xcit-serve key makes one")
    return names


def new_key(name: str) -> tuple[str, str]:
    """A key, and its line for the file."""
    if not NAME.fullmatch(name):
        raise KeysError(f"{name!r} is no name: up to 64 letters, digits, '.', '_', '-' and '@'")
    key = secrets.token_urlsafe(32)
    while key.startswith("-"):  # a command line would take it for a flag
        key = secrets.token_urlsafe(32)
    return key, f"{name}:{hashlib.sha256(key.encode()).hexdigest()}"


def bearer(headers: Mapping[str, str]) -> str:
    """The token of ``Authorization: Bearer …``; empty if there is none."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
