"""What the service is made of: its bill of materials, and the audit for known vulnerabilities."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
LOCK = (SCRIPTS.parent / "requirements.txt").read_text()
PINS = dict(re.findall(r"^([\w-]+)==([\w.]+)", LOCK, re.MULTILINE))


def run(script: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(SCRIPTS / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_bill_of_materials_has_what_is_served_as_pinned_and_nothing_else(
    tmp_path: Path,
) -> None:
    target = tmp_path / "sbom.json"
    done = run("sbom.py", str(target))
    assert done.returncode == 0, done.stderr
    bill = json.loads(target.read_text())
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == "xcit-serve"
    listed = {
        re.sub(r"[-_.]+", "-", part["name"].lower()): part["version"].partition("+")[0]
        for part in bill["components"]
    }
    assert {"torch", "pillow", "fastapi"} <= set(listed)
    assert listed == {name: PINS[name] for name in listed}
    assert set(PINS) - set(listed) <= {"uvloop"}  # not on Windows


class Advisories(ThreadingHTTPServer):
    """As OSV answers: what there is to say of a package."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.vulnerable: set[str] = set()
        self.status = 200
        self.asked: dict[str, str] = {}
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: Advisories

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = query["package"]["name"]
        self.server.asked[name] = query["version"]
        answer: dict[str, Any] = {}
        if name in self.server.vulnerable:
            ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.1"}]}]
            affected = [{"package": {"name": name, "ecosystem": "PyPI"}, "ranges": ranges}]
            answer = {"vulns": [{"id": "PYSEC-2026-1", "affected": affected}]}
        body = json.dumps(answer).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def advisories() -> Iterator[Advisories]:
    server = Advisories()
    yield server
    server.shutdown()
    server.server_close()


def audit(server: Advisories) -> "subprocess.CompletedProcess[str]":
    url = f"http://127.0.0.1:{server.server_port}"
    return run("audit.py", "--vulnerability-service=osv", f"--osv-url={url}")


def test_every_pin_is_audited(advisories: Advisories) -> None:
    done = audit(advisories)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{len(PINS)} packages audited, 0 known vulnerabilities\n"
    assert advisories.asked == PINS


def test_a_known_vulnerability_fails_the_audit(advisories: Advisories) -> None:
    advisories.vulnerable = {"pillow"}
    done = audit(advisories)
    assert done.returncode == 1
    assert f"pillow {PINS['pillow']}: PYSEC-2026-1, fixed in 99.1\n" in done.stdout


def test_without_advisories_the_audit_says_that_it_is_skipped(advisories: Advisories) -> None:
    advisories.status = 503
    refused = audit(advisories)
    advisories.shutdown()
    advisories.server_close()
    for done in (refused, audit(advisories)):
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("SKIP: requirements.txt is not audited: ")


def test_an_audit_that_cannot_begin_is_no_success() -> None:
    done = run("audit.py", "--no-such-flag")
    assert done.returncode == 1
    assert "--no-such-flag" in done.stdout
