"""As `tests.app.test_shared_errors`, for the modules that import Ray."""

import pytest

from tests.app.test_shared_errors import RAY_MODULES, check_module

from . import library  # noqa: F401  # imports Ray without its warnings


@pytest.mark.parametrize("name", RAY_MODULES)
def test_no_module_has_a_shared_exception(name: str) -> None:
    check_module(name)
