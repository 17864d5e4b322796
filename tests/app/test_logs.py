"""Limits on the length of log lines, also of libraries."""

import logging
import sys

import pytest

from app.observability.logs import MAX_LINE, JsonFormatter, TextFormatter

FORMATTERS = pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])


@FORMATTERS
@pytest.mark.parametrize("name", ["app.test", "some.library"])
def test_a_message_is_shortened(formatter: logging.Formatter, name: str) -> None:
    record = logging.makeLogRecord({"name": name, "msg": "it was %s", "args": ("x" * 100_000,)})
    assert MAX_LINE < len(formatter.format(record)) < MAX_LINE + 200


@FORMATTERS
def test_an_exception_is_shortened(formatter: logging.Formatter) -> None:
    try:
        int("9" * 4000 + "x" * 100_000)
    except ValueError:
        failure = {"name": "app.test", "msg": "unexpected error", "exc_info": sys.exc_info()}
        record = logging.makeLogRecord(failure)
    text = formatter.format(record)
    assert "ValueError: invalid literal" in text
    assert "test_an_exception_is_shortened" in text
    assert len(text) < 2 * MAX_LINE
