"""What is installed only for who asks for it."""

from collections.abc import Iterator
from contextlib import contextmanager


class MissingExtra(Exception):
    """A package that a command needs is not installed; the text says how to get it."""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Around imports that need the extra ``name`` of this project; raises `MissingExtra`."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"{error.name} is not installed; pip install 'xcit-serve[{name}]' brings it"
        ) from error
