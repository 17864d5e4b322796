"""The bill of materials, and the audit for known vulnerabilities."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .servers import Advisories

pytestmark = pytest.mark.thorough

SCRIPTS = Path(__file__).parent.parent / "scripts"
LOCK = (SCRIPTS.parent / "requirements.txt").read_text()
PINS = dict(re.findall(r"^([\w-]+)==([\w.]+)", LOCK, re.MULTILINE))


def run(script: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(SCRIPTS / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_bill_of_materials_lists_exactly_the_pinned_packages(
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


@pytest.fixture
def advisories() -> Iterator[Advisories]:
    with Advisories() as server:
        yield server


def audit(server: Advisories) -> "subprocess.CompletedProcess[str]":
    return run("audit.py", "--vulnerability-service=osv", f"--osv-url={server.url}")


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


def test_audit_without_advisories_is_reported_as_skipped(advisories: Advisories) -> None:
    advisories.status = 503
    refused = audit(advisories)
    advisories.shutdown()
    advisories.server_close()
    for done in (refused, audit(advisories)):
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("SKIP: requirements.txt is not audited: ")


def test_audit_that_cannot_start_fails() -> None:
    done = run("audit.py", "--no-such-flag")
    assert done.returncode == 1
    assert "--no-such-flag" in done.stdout
