"""Check the packages pinned in requirements.txt for known vulnerabilities, with pip-audit.

Exits with 1 if there are any. If no advisories can be fetched, it prints SKIP and exits with 0,
because checks must run without a network. Arguments such as --ignore-vuln=ID are passed to
pip-audit.
"""

import json
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).parent.parent / "requirements.txt"
TIMEOUT = 10  # seconds for all advisories together
OUT_OF_REACH = ("requests.exceptions.", "ConnectionError", "ServiceError", "Could not connect")


def skip(reason: str) -> int:
    print(f"SKIP: {LOCK.name} is not audited: {reason}")
    return 0


def audit(arguments: list[str]) -> int:
    command = [sys.executable, "-m", "pip_audit", f"--requirement={LOCK}", "--no-deps"]
    command += ["--disable-pip", "--progress-spinner=off", "--format=json", "--timeout=2"]
    try:
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return skip(f"no advisories within {TIMEOUT} s")
    if not done.stdout:
        if any(sign in done.stderr for sign in OUT_OF_REACH):
            return skip(f"advisories cannot be fetched: {done.stderr.splitlines()[-1]}")
        print(done.stderr)
        return 1
    packages = json.loads(done.stdout)["dependencies"]
    audited = [package for package in packages if "skip_reason" not in package]
    if not audited:
        return skip("the advisory service knows none of its packages")
    unknown = sorted(package["name"] for package in packages if package not in audited)
    found = [(package, vulnerability) for package in audited for vulnerability in package["vulns"]]
    for package, vulnerability in found:
        fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}")
    print(f"{len(audited)} packages audited, {len(found)} known vulnerabilities")
    if unknown:
        print(f"not known to the advisory service: {', '.join(unknown)}")
    return 1 if found else 0


sys.exit(audit(sys.argv[1:]))
