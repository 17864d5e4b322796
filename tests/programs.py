"""Programs that some tests need, from packages of the operating system."""

import os
import shutil

import pytest


def find_program(name: str, package: str, variable: str) -> str:
    """The path of a program.

    Without it the test is skipped, or fails if the environment variable is set, as in continuous
    integration.
    """
    if found := shutil.which(name):
        return found
    missing = f"there is no {name}: apt-get install {package}"
    if os.environ.get(variable):
        pytest.fail(missing)
    pytest.skip(missing)
