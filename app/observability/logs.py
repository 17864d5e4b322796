"""Structured logs: one JSON object or one line of text per event, with the request's ids."""

import json
import logging
import sys
import time
import warnings
from typing import Any

from app.observability.record import RequestRecord, current_record, shorten

MAX_LINE = 4096  # characters of a message or a traceback line, which may contain a client's text
TRUSTED = {"app", "model", "uvicorn"}  # loggers whose messages contain no unescaped client text

access_logger = logging.getLogger("app.access")


def set_up_logs(level: str, log_format: str, process: str | None = None) -> None:
    """Send all logs of this process to stderr, in one format.

    Args:
        process: the name of the process, a field of every line.
    """
    handler = logging.StreamHandler(sys.stderr)
    if process:
        handler.addFilter(AddProcess(process))
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # up to a hundred lines per invalid file


def log_request(record: RequestRecord) -> None:
    """Log a finished request, at DEBUG level if it is routine."""
    level = logging.DEBUG if record.routine else logging.INFO
    if not access_logger.isEnabledFor(level):
        return
    timings = record.timings
    fields: dict[str, Any] = {
        "method": record.method,
        "path": shorten(record.path),
        "status": record.status,
        "duration_ms": round(1e3 * timings.total(), 2),
        **{f"{phase}_ms": round(1e3 * seconds, 2) for phase, seconds in timings.phases.items()},
    }
    if record.client is not None:
        fields["client"] = record.client
    if timings.batch_size is not None:
        fields["batch_size"] = timings.batch_size
    if record.rejection is not None:
        fields["rejection"] = record.rejection
    access_logger.log(level, "request", extra={"fields": fields})


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, ids, and the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": _timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
            **_fields(record),
        }
        if record.exc_info:
            event["exception"] = _exception(self, record)
        return json.dumps(event, default=str)  # ASCII, without control characters


class TextFormatter(logging.Formatter):
    """``time LEVEL logger: message key=value …``."""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {key}={_quote(value)}" for key, value in _fields(record).items())
        message = _message(record)
        if record.name.partition(".")[0] not in TRUSTED:
            message = _quote(message)
        line = f"{_timestamp(record)} {record.levelname:<7} {record.name}: {message}{fields}"
        return f"{line}\n{_exception(self, record)}" if record.exc_info else line


class AddProcess(logging.Filter):
    """Adds the name of the process to each record."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._fields = {"process": process}

    def filter(self, record: logging.LogRecord) -> bool:
        record.fields = {**self._fields, **getattr(record, "fields", {})}
        return True


class RateLimit(logging.Filter):
    """Passes one record per logger and minute."""

    def __init__(self) -> None:
        super().__init__()
        self._silent_until: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        silent = now < self._silent_until.get(record.name, now)
        if not silent:
            self._silent_until[record.name] = now + 60
        return not silent


def _message(record: logging.LogRecord) -> str:
    return shorten(record.getMessage(), MAX_LINE)


def _exception(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """The traceback, with long lines shortened: the last may contain a client's text."""
    assert record.exc_info
    lines = formatter.formatException(record.exc_info).splitlines()
    return "\n".join(shorten(line, MAX_LINE) for line in lines)


def _quote(value: object) -> str:
    """A value as one word, so that a client's text cannot look like another field or line."""
    text = str(value)
    return text if text.isprintable() and not set(text) & set(' ="') else json.dumps(text)


def _timestamp(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    request = current_record.get()
    ids = {"request_id": request.request_id} if request else {}
    if request and request.trace:
        ids |= request.trace.ids
    return {**ids, **getattr(record, "fields", {})}
