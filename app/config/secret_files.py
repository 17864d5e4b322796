"""Secrets in variables or in files, as Docker and Kubernetes mount them."""

from pathlib import Path

from app.config.settings import SettingsError

MAX_BYTES = 4096


def read_secret(name: str, value: str | None, path: Path | str | None) -> str | None:
    """The secret, from ``value`` or from the file at ``path``; ``None`` if neither is given.

    Args:
        name: the variable of the secret; the variable of the path has the suffix ``_FILE``.

    Raises:
        SettingsError: both are given, the file cannot be read, or the secret is invalid.
    """
    if value and path:
        raise SettingsError(f"{name} and {name}_FILE are both set; set one of them")
    if path:
        return _checked(f"{name}_FILE={path}", _read(f"{name}_FILE={path}", Path(path)))
    return _checked(name, value) if value else None


def _read(source: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{source}: cannot be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise SettingsError(f"{source}: over {MAX_BYTES} bytes, too long for a secret")
    return content.decode("latin-1").strip(" \t\r\n")  # `_checked` refuses other than ASCII


def _checked(source: str, secret: str) -> str:
    """The secret, if clients can send it in a header field; raises `SettingsError` otherwise."""
    if not secret:
        raise SettingsError(f"{source}: the file is empty; it must hold the secret")
    if not (secret.isascii() and secret.isprintable()):
        raise SettingsError(f"{source}: must be one line of printable ASCII characters")
    return secret
