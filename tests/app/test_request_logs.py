"""Log lines of requests."""

import json
import logging

import pytest

from app.observability.logs import JsonFormatter, TextFormatter

from .conftest import (
    FakeClassifier,
    running,
)

pytestmark = pytest.mark.anyio


async def test_access_line_has_id_phases_and_batch_size(
    classifier: FakeClassifier, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "app.access")
    async with running(classifier) as (client, _):
        await client.post("/predict", content=b"1", headers={"X-Request-ID": "me"})
        await client.post("/predict", content=b"bad")
    lines = [
        json.loads(JsonFormatter().format(r)) for r in caplog.records if r.name == "app.access"
    ]
    assert lines[0]["status"] == 200
    assert lines[0]["batch_size"] == 1
    assert {"read_ms", "preprocess_ms", "queue_ms", "inference_ms"} < set(lines[0])
    assert lines[1]["rejection"] == "invalid_image"


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_clients_cannot_forge_log_lines(formatter: logging.Formatter) -> None:
    record = logging.makeLogRecord(
        {
            "name": "some.library",
            "msg": "no header: %s",
            "args": ("\x9b31m\nINFO forged: line path=/b",),
            "fields": {"path": "/a\nINFO forged: line"},
            "levelname": "INFO",
        }
    )
    line = formatter.format(record)
    assert line.isprintable()
    assert " path=/b" not in line.replace('"no header: \\u009b31m\\nINFO forged: line path=/b"', "")
