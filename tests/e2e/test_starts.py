"""Failed starts report the reason in one line and in the log, and exit with a documented code."""

import json
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.server_process import PATIENCE, ROOT, SERVE, WORKERS, environment, free_port

from .conftest import SLOW_SERVICE, StartServer

LOG_FORMATS = pytest.mark.parametrize("log_format", ["text", "json"])


@dataclass
class Start:
    """Exit code and stderr of a failed start."""

    code: int
    lines: list[str]


def start(*command: str, **settings: Any) -> Start:
    ended = subprocess.run(
        [sys.executable, *(command or SERVE)],
        cwd=ROOT,
        env=environment(**{"port": free_port()} | settings),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    return Start(ended.returncode, ended.stderr.splitlines())


def check_reason(ended: Start, log_format: str, reason: str) -> None:
    """The log has one error with the reason; in text format the last line repeats it."""
    served_by = "app.processes.supervisor" if WORKERS else "app.server.server"
    logger = "app.cli.serve" if reason.startswith("cannot start") else served_by
    if log_format == "json":
        events = [json.loads(line) for line in ended.lines]
        (error,) = (event for event in events if event["level"] == "error")
        assert error["message"].startswith(reason)
        assert error["logger"] == logger
        assert "request_id" not in error
    else:
        (line,) = (line for line in ended.lines if " ERROR " in line)
        assert f" {logger}: {reason}" in line
        complaint = f"xcit-serve: {reason.partition(': ')[2]}"
        assert [line for line in ended.lines if line.startswith("xcit-serve: ")] == ended.lines[-1:]
        assert ended.lines[-1].startswith(complaint)


@pytest.mark.quick
@LOG_FORMATS
def test_port_in_use_exits_with_code_2(log_format: str) -> None:
    """The port is checked before the model, which would fail too."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = start(port=port, checkpoint="/nowhere", log_format=log_format)
    assert ended.code == 2
    check_reason(ended, log_format, f"cannot start: port {port} of 127.0.0.1 is already in use; ")
    assert "loading" not in "".join(ended.lines)
    assert "listening" not in "".join(ended.lines)


def test_unknown_host_exits_with_code_2() -> None:
    ended = start(host="no-such-host.invalid")
    assert ended.code == 2
    check_reason(ended, "text", "cannot start: host no-such-host.invalid cannot be resolved; ")


@pytest.mark.quick
@LOG_FORMATS
def test_unreadable_model_exits_with_code_1(log_format: str) -> None:
    ended = start(checkpoint="/nowhere/weights.pt", log_format=log_format)
    assert ended.code == 1
    check_reason(ended, log_format, "failed: /nowhere/weights.pt: cannot be read: No such file")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (
            {"checkpoint": __file__},
            f"{__file__}: expected a safetensors or PyTorch file, found a text file",
        ),
        ({"device": "cuda:77"}, "device 'cuda:77' cannot be used here"),
        ({"labels": "/nowhere/labels.txt"}, "/nowhere/labels.txt: "),
    ],
)
def test_reason_for_not_serving_a_model_is_logged(settings: dict[str, str], reason: str) -> None:
    ended = start(**settings, log_level="error")
    assert ended.code == 1
    assert len(ended.lines) == 2
    check_reason(ended, "text", f"failed: {reason}")


@LOG_FORMATS
def test_invalid_keys_file_exits_with_code_2(log_format: str, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("no key\n")
    ended = start(api_keys_file=keys, log_format=log_format)
    assert ended.code == 2
    check_reason(ended, log_format, f"cannot start: {keys}")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"admin_token_file": "/nowhere/token"}, "XCIT_ADMIN_TOKEN_FILE"),
        ({"cors_origins": "photos"}, "XCIT_CORS_ORIGINS"),
        ({"root_path": "/predict"}, "XCIT_ROOT_PATH"),
    ],
)
def test_invalid_settings_are_logged(settings: dict[str, str], reason: str) -> None:
    ended = start(**settings)
    assert ended.code == 2
    check_reason(ended, "text", f"cannot start: {reason}")


@pytest.mark.quick
def test_each_bad_setting_is_one_line_and_exit_code_2() -> None:
    ended = start(max_batch_size="many", device="gpu")
    assert ended.code == 2
    assert [line.split("=")[0] for line in ended.lines] == [
        "xcit-serve: XCIT_DEVICE",
        "xcit-serve: XCIT_MAX_BATCH_SIZE",
    ]


def test_unknown_variables_are_in_the_log_in_its_format() -> None:
    ended = start(host="no-such-host.invalid", max_bacth_size=3, log_format="json")
    warning, _, error = map(json.loads, ended.lines)
    assert warning["level"] == "warning"
    assert warning["message"].startswith("XCIT_MAX_BACTH_SIZE is not a setting and has no effect")
    assert error["level"] == "error"


DEFECT = """
import app.cli.serve
from app.observability.logs import set_up_logs
from app.config.settings import read_settings
def load():
    raise ZeroDivisionError("a defect")
set_up_logs("info", "json")
app.cli.serve.serve_and_exit(read_settings(log_format="json"), load)
"""


def test_defect_while_loading_is_logged_with_its_traceback() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", DEFECT],
        cwd=ROOT,
        env=environment(port=0),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 1
    events = [json.loads(line) for line in ended.stderr.splitlines()]
    errors = [event for event in events if event["level"] == "error"]
    assert "ZeroDivisionError: a defect" in errors[0]["exception"]
    assert "a defect" in errors[-1]["message"]


def test_ipv6_address_in_brackets_is_served(start_server: StartServer) -> None:
    server = start_server(*SLOW_SERVICE, host="[::1]", wait=False)
    server.client.base_url = f"http://[::1]:{server.port}"
    server.wait_ready()
    assert f"listening on http://[::1]:{server.port}" in server.log.read_text()
    assert server.stop() == 0
