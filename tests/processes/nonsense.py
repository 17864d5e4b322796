"""The service, one of whose workers sends nonsense to the process that ``XCIT_TEST_TO`` names.

    python -m tests.processes.nonsense serve

It does so a second after its start, unless the file ``XCIT_TEST_DONE`` exists, which it makes.
"""

import json
import os
import sys
import threading
from functools import partial
from pathlib import Path

from app.cli import serve
from app.config.cpu_quota import usable_cores
from app.config.process_plan import plan_processes
from app.config.settings import read_settings
from app.observability.logs import set_up_logs
from app.processes.__main__ import main
from app.processes.messages import Json, encode
from app.processes.supervisor import supervise

NONSENSE = {
    "engine": b"\xff" * 64,
    "supervisor, as JSON": encode(Json({"gift": "horse"})),
}


def send_nonsense(descriptor: int, nonsense: bytes) -> None:
    os.write(descriptor, nonsense)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        settings = read_settings()
        set_up_logs(settings.log_level, settings.log_format)
        plan = plan_processes(settings, usable_cores())
        serve.exit_with(settings, partial(supervise, settings, plan, "tests.processes.nonsense"))
    inherited = json.loads(sys.argv[2])
    done = Path(os.environ["XCIT_TEST_DONE"])
    if sys.argv[1] == "worker" and inherited["number"] == 0 and not done.exists():
        done.touch()
        to = os.environ["XCIT_TEST_TO"]
        descriptor = inherited["engines"][0] if to == "engine" else inherited["control"]
        threading.Timer(1.5, send_nonsense, (descriptor, NONSENSE[to])).start()
    main(sys.argv[1:])
