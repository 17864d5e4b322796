"""Optional dependencies, and the message when one is missing."""

from collections.abc import Iterator
from contextlib import contextmanager


class MissingExtra(Exception):
    """A package that a command needs is not installed; the message says how to install it."""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Wrap imports that need the extra ``name`` of this project; raises `MissingExtra`."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"{error.name} is not installed; pip install 'xcit-serve[{name}]' installs it"
        ) from error
