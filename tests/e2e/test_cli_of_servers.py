"""The commands that call a server, as users type them."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.config.settings import CLIENT_KEY
from app.config.unknown_variables import unknown_variables
from app.http.api_keys import new_key
from tests.server_process import ROOT, Server, environment, free_port
from tests.servers import FixedPage

from .conftest import Run, StartServer

pytestmark = pytest.mark.one_process("about the client's side of HTTP")

KEY, KEY_LINE = new_key("tests")


@pytest.fixture(scope="module")
def server(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Server:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(KEY_LINE)
    return start_server(api_keys_file=keys)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CLIENT_KEY, KEY)
    monkeypatch.setenv("XCIT_BACKEND", "torch")
    monkeypatch.setenv("XCIT_STREAMS", "2")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    Image.effect_noise((200, 150), 60).convert("RGB").save(path)
    return path


@pytest.fixture
def stranger() -> Iterator[str]:
    """The URL of a web server that is not a model server."""
    with FixedPage("<h1>It works!</h1>") as server:
        yield server.url


@pytest.mark.quick
def test_predict_by_url_gives_the_local_predictions(
    run: Run, bundled_server: Server, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both run with default settings."""
    for name in ("XCIT_BACKEND", "XCIT_STREAMS"):
        monkeypatch.delenv(name)
    server = bundled_server
    code, local, _ = run("predict", photo, "--json", "--top-k", 3)
    assert code == 0
    code, remote, err = run("predict", photo, "--json", "--top-k", 3, "--url", server.url)
    assert (code, err) == (0, [])
    for ours, theirs in zip(json.loads(local), json.loads(remote), strict=True):
        assert ours["file"] == theirs["file"] == str(photo)
        for row, other in zip(ours["predictions"], theirs["predictions"], strict=True):
            assert row["label"] == other["label"]
            assert row.keys() == other.keys()
    table = run("predict", photo, "--top-k", 3, "--url", server.url)[1].splitlines()
    assert len(table) == 3
    assert table[0].startswith(f"{photo}  ")
    assert "%" in table[0]


def test_unreadable_images_are_reported_in_order(
    run: Run, server: Server, photo: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photo.read_bytes()[:1500])
    files = [photo, broken, tmp_path / "absent.jpg", tmp_path, photo]
    code, out, err = run("predict", *files, "--json", "--url", server.url, "--concurrency", 2)
    assert code == 1
    assert [answer["file"] for answer in json.loads(out)] == [str(photo)] * 2
    assert err == [
        f"xcit-serve: {broken}: the JPEG data is truncated: pixels are missing at its end",
        f"xcit-serve: {tmp_path / 'absent.jpg'}: No such file or directory",
        f"xcit-serve: {tmp_path}: is a directory; name the files in it",
    ]


def test_api_key_is_read_from_a_flag_or_the_environment(
    run: Run, server: Server, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("predict", photo, "--url", server.url)[0] == 0
    assert run("predict", photo, "--url", server.url, "--api-key", "wrong")[0] == 1
    monkeypatch.delenv(CLIENT_KEY)
    assert run("predict", photo, "--url", server.url, "--api-key", KEY)[0] == 0
    code, _, err = run("predict", photo, photo, "--url", server.url)
    assert code == 1
    (line,) = err
    assert line.startswith(f"xcit-serve: {photo}: API key required: send Authorization: Bearer")


def test_client_key_is_not_an_unknown_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XCIT_CLIENT_KEYS", "x")
    assert [line.split()[0] for line in unknown_variables()] == ["XCIT_CLIENT_KEYS"]


MISTAKES = [
    ("predict x --url localhost", 2, "invalid service URL 'localhost'"),
    (
        "predict x --url http://x --checkpoint a",
        2,
        "--checkpoint applies to a local model; remove it",
    ),
    (
        "predict x --url http://x --image-size 64",
        2,
        "--image-size applies to a local model; remove it",
    ),
    (
        "predict x --url http://x --backend torch",
        2,
        "--backend applies to a local model; remove it",
    ),
    ("predict x --url http://x --api-key ü", 2, "the API key must be one or more printable ASCII"),
    ("predict x --url http://x --concurrency 513", 2, "--concurrency=513: must be from 1 to 512"),
    ("predict x --concurrency 3", 2, "--concurrency requires --url"),
    ("predict x --api-key s3cret", 2, "--api-key requires --url"),
    ("bench --url x", 2, "invalid service URL 'x'"),
    ("bench --url http://x --concurrency 1.5", 2, "must be whole numbers, separated by commas"),
    ("bench --url http://x --rate 0", 2, "--rate=0: must be from 0.01 to 10,000"),
    ("bench --url http://x --rate nan", 2, "--rate=nan: must be from 0.01 to 10,000"),
    ("bench --url http://x --rate 5,1e5", 2, "--rate=5,1e5: must be from 0.01 to 10,000"),
    ("bench --url http://x --seconds 4000", 2, "--seconds=4000: must be from 0.1 to 3,600"),
    ("bench --url http://x --seconds 1,2", 2, "--seconds=1,2: must be one number"),
    ("bench --url http://x --warmup -1", 2, "--warmup=-1: must be from 0 to 600"),
    ("bench --url http://x --timeout 0", 2, "--timeout=0: must be from 0.1 to 600"),
    ("bench --url http://x --plot a.jpg", 2, "--plot=a.jpg: the name must end in .png"),
    ("bench --url http://x --json /no/x", 2, "/no/x: the directory /no does not exist"),
    ("bench /absent --url http://x", 1, "/absent: No such file or directory"),
]


@pytest.mark.parametrize(("command", "code", "message"), MISTAKES)
def test_mistakes_are_one_line(run: Run, command: str, code: int, message: str) -> None:
    returned, out, err = run(*command.split())
    assert (returned, out) == (code, "")
    (line,) = err
    assert line.startswith("xcit-serve: ")
    assert message in line
    assert "s3cret" not in line


@pytest.mark.quick
@pytest.mark.parametrize("command", [["predict", "x"], ["bench"]], ids=["predict", "bench"])
def test_url_of_another_kind_of_server_is_one_line(
    run: Run, command: list[str], stranger: str
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    code, out, err = run(*command, "--url", url)
    told = f"xcit-serve: cannot reach {url}: connection refused; is the service running?"
    assert (code, out, err) == (1, "", [told])
    code, out, (line,) = run(*command, "--url", stranger)
    assert (code, out) == (1, "")
    assert "answered with text/html that is not a health report; is it xcit-serve?" in line


def test_top_k_is_checked_against_the_servers_model(run: Run, server: Server, photo: Path) -> None:
    told = ["xcit-serve: --top-k=11: must be from 1 to 10"]
    assert run("predict", photo, "--top-k", 11, "--url", server.url) == (2, "", told)


@pytest.mark.parametrize(
    ("package", "arguments", "message"),
    [
        ("httpx", ["predict", "x", "--url", "http://x"], "'xcit-serve[client]' installs it"),
        ("httpx", ["bench", "--url", "http://x"], "'xcit-serve[client]' installs it"),
        ("matplotlib", ["bench", "--url", "http://x", "--plot", "x.png"], "'xcit-serve[train]'"),
    ],
)
def test_missing_optional_dependency_is_named(
    package: str, arguments: list[str], message: str
) -> None:
    program = f"import sys; sys.modules[{package!r}] = None; from app.cli.main import main;"
    done = subprocess.run(
        [sys.executable, "-c", f"{program} sys.exit(main({arguments}))"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("xcit-serve: ")
    assert package in line
    assert message in line


def test_bench_reports_its_measurements(
    run: Run, server: Server, photo: Path, tmp_path: Path
) -> None:
    report, plot = tmp_path / "report.json", tmp_path / "plot.png"
    code, out, err = run(
        *("bench", photo, "--url", server.url, "--concurrency", "1,4", "--rate", "20"),
        *("--seconds", 1, "--warmup", 0.2, "--json", report, "--plot", plot),
    )
    assert (code, err) == (0, [])
    lines = out.splitlines()
    assert lines[0].startswith(f"{server.url}: xcit-cifar10 1 on cpu")
    names = ["closed loop of 1", "closed loop of 4", "open loop, 20 per second"]
    rows = [line for name in names for line in lines if line.startswith(f"{name}  ")]
    assert len(rows) == 3
    for name in names:
        assert f"{name}, latency from due time to answer" in lines
    told: dict[str, Any] = json.loads(report.read_text())
    assert (told["url"], told["images"], told["interrupted"]) == (server.url, 1, False)
    assert told["model"]["name"] == "xcit-cifar10"
    for load, name, row in zip(told["loads"], names, rows, strict=True):
        assert load["load"] == name
        assert load["statuses"] == {"200": load["requests"]}
        assert load["requests"] > 0
        assert 0 < load["latency_ms"]["p50"] <= load["latency_ms"]["p99"]
        assert f"{load['requests']:,} x 200" in row
    with Image.open(plot) as image:
        assert image.format == "PNG"


def test_bench_generates_an_image(run: Run, server: Server) -> None:
    code, out, _ = run("bench", "--url", server.url, "--seconds", 0.5, "--warmup", 0)
    assert code == 0
    assert "1 image(s) of" in out


def test_bench_fails_where_nothing_succeeded(run: Run, server: Server, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("no image")
    code, out, err = run("bench", tmp_path / "x", "--url", server.url, "--seconds", 0.3)
    assert (code, err) == (1, ["xcit-serve: no request succeeded"])
    assert "x 415, such as: {" in out


def obey_interrupts() -> None:
    """Restore the handler: background processes of a shell ignore interrupts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_interrupted_command_prints_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "predict", "x", "--url", url],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=obey_interrupts,
        )
        with process:
            silent.settimeout(30)
            with silent.accept()[0]:
                process.send_signal(signal.SIGINT)
                _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "xcit-serve: interrupted\n")


def test_interrupted_bench_prints_its_measurements(server: Server, tmp_path: Path) -> None:
    report, out = tmp_path / "report.json", tmp_path / "out"
    command = ["bench", "--url", server.url, "--seconds", "600", "--concurrency", "1,2"]
    with out.open("w") as stdout:
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "app", *command, "--warmup", "0", "--json", str(report)],
            cwd=ROOT,
            env=environment(client_key=KEY),
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=obey_interrupts,
        )
    with process:
        while "count x status" not in out.read_text():
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "xcit-serve: interrupted: the results are incomplete\n"
    assert "closed loop of 1  " in out.read_text()
    assert "closed loop of 2" not in out.read_text()
    told = json.loads(report.read_text())
    assert told["interrupted"] is True
    assert told["loads"][0]["statuses"]["200"] > 0
