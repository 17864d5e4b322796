"""No exception is shared, because each raise adds frames to its traceback."""

import importlib
import pkgutil
from collections.abc import Iterable, Iterator

import pytest

import app

pytestmark = pytest.mark.one_process("about modules")

MODULES = [m.name for m in pkgutil.walk_packages(app.__path__, "app.") if "__main__" not in m.name]


def held(value: object, depth: int = 2) -> Iterator[BaseException]:
    """The exceptions in a module's variables, containers and class attributes."""
    if isinstance(value, BaseException):
        yield value
    elif depth and isinstance(value, dict):
        for each in value.values():
            yield from held(each, depth - 1)
    elif depth and isinstance(value, list | tuple | set | frozenset):
        for each in value:
            yield from held(each, depth - 1)
    elif depth and isinstance(value, type) and value.__module__.startswith("app"):
        yield from held(list(vars(value).values()), depth)


@pytest.mark.parametrize("name", MODULES)
def test_no_module_has_a_shared_exception(name: str) -> None:
    values: Iterable[object] = vars(importlib.import_module(name)).values()
    assert not [error for value in values for error in held(value)]


def test_shared_exception_would_be_found() -> None:
    class Holder:
        errors = (ValueError("x"),)

    Holder.__module__ = "app.test"
    for value in (ValueError("x"), {"a": ValueError("x")}, [ValueError("x")], Holder):
        assert list(held(value))
