"""Settings of all tests, and runs of the same tests on several processes.

``XCIT_TEST_ENGINE=remote`` runs ``tests/app`` on a remote engine; see `tests.app.remote`.
``XCIT_TEST_WORKERS=2`` runs ``tests/e2e`` on servers with two HTTP workers. Both leave out what is
marked ``one_process``.
"""

import os

import pytest
from hypothesis import settings

SEVERAL = {"XCIT_TEST_ENGINE", "XCIT_TEST_WORKERS"} & os.environ.keys()

# Without a deadline: other processes may slow down a single example.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("starts_first") is None)
    for item in items:
        mark = item.get_closest_marker("one_process")
        if mark and SEVERAL:
            (reason,) = mark.args
            item.add_marker(pytest.mark.skip(reason=reason))
