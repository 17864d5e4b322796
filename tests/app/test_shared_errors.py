"""No exception is shared, because each raise adds frames to its traceback."""

import importlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import app

pytestmark = pytest.mark.one_process("about modules")

ROOT = Path(app.__file__).parent
FILES = sorted(path.relative_to(ROOT.parent).with_suffix("") for path in ROOT.rglob("*.py"))
NAMES = [".".join(path.parts) for path in FILES if path.name not in ("__init__", "__main__")]
# Importing Ray takes seconds, so tests/ray has the test of these.
RAY_MODULES = [name for name in NAMES if name.startswith(("app.ray.", "app.scoring.cluster"))]
MODULES = [name for name in NAMES if name not in RAY_MODULES]


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
    check_module(name)


def check_module(name: str) -> None:
    """Import a module and look for exceptions in its variables."""
    values: Iterable[object] = vars(importlib.import_module(name)).values()
    assert not [error for value in values for error in held(value)]


def test_shared_exception_would_be_found() -> None:
    class Holder:
        errors = (ValueError("x"),)

    Holder.__module__ = "app.test"
    for value in (ValueError("x"), {"a": ValueError("x")}, [ValueError("x")], Holder):
        assert list(held(value))
