"""The processes of the service in this container, for docker-smoke.sh.

Prints a line for each: role, number, process id and threads. Uses only the standard library.
"""

import json
import re
import sys
from pathlib import Path

for directory in Path("/proc").glob("[0-9]*"):
    try:
        words = (directory / "cmdline").read_text().split("\0")
        status = (directory / "status").read_text()
    except OSError:  # it has ended
        continue
    threads = re.findall(r"^Threads:\s*(\d+)", status, re.MULTILINE)[0]
    if "app.processes" in words:
        role, text = words[words.index("app.processes") + 1 :][:2]
        name = f"{role} {json.loads(text)['number']}"
    elif "python" in words[0] and "serve" in words:
        name = "supervisor 0"
    else:
        continue
    sys.stdout.write(f"{name} {directory.name} {threads}\n")
