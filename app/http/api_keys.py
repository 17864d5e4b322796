"""Named API keys, stored as hashes.

A key file has one line ``NAME:SHA-256 of the key in hex`` per key, and may have empty lines and
comments with ``#``. Keys are long and random, so an unsalted hash is safe.
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
    """An invalid key file or key name."""


class ApiKeys:
    """The keys of a file; raises `KeysError` if the file is invalid."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names: dict[bytes, str] = read_keys(path)

    def read_again(self) -> Callable[[], None]:
        """Read the file, and return a function that activates its keys.

        Raises:
            KeysError: the file is invalid.
        """
        names = read_keys(self._path)

        def activate() -> None:
            self._names = names

        return activate

    def name_of(self, headers: Mapping[str, str]) -> str:
        """The name of the key in ``Authorization: Bearer …`` or ``X-API-Key``.

        Raises:
            Unauthorized: the key is missing or invalid.
        """
        key = bearer(headers) or headers.get("x-api-key", "")
        if not key:
            raise Unauthorized("API key required: send Authorization: Bearer KEY or X-API-Key: KEY")
        digest = hashlib.sha256(key.encode()).digest()
        found = None
        for known, name in self._names.items():  # no early exit: constant time
            if hmac.compare_digest(digest, known):
                found = name
        if found is None:
            raise Unauthorized("invalid API key; check it for typing errors, or request a new one")
        return found


def read_keys(path: Path) -> dict[bytes, str]:
    """The names of the keys in a file, by hash."""
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
            raise KeysError(f"{path}, line {number}: duplicate name {match['name']}")
        digest = bytes.fromhex(match["digest"])
        if digest in names:
            raise KeysError(
                f"{path}, line {number}: {match['name']} has the key of {names[digest]}; "
                "use a different key for each name"
            )
        names[digest] = match["name"]
    if not names:
        raise KeysError(f"{path}: contains no key; make one with xcit-serve key")
    return names


def new_key(name: str) -> tuple[str, str]:
    """A key, and its line for the file."""
    if not NAME.fullmatch(name):
        raise KeysError(
            f"invalid name {name!r}: must be 1 to 64 letters, digits, '.', '_', '-' or '@'"
        )
    key = secrets.token_urlsafe(32)
    while key.startswith("-"):  # command lines would read it as a flag
        key = secrets.token_urlsafe(32)
    return key, f"{name}:{hashlib.sha256(key.encode()).hexdigest()}"


def bearer(headers: Mapping[str, str]) -> str:
    """The token in ``Authorization: Bearer …``, or an empty text."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
