"""The slow service of a machine with six cores, which adds workers when the engine has measured.

python -m tests.processes.growing serve
"""

from typing import Any

from app.cli.serve import exit_with
from app.config.process_plan import plan_processes
from app.config.settings import read_settings
from app.observability.logs import set_up_logs
from app.processes import supervisor

CORES = 6

if __name__ == "__main__":
    settings = read_settings()
    set_up_logs(settings.log_level, settings.log_format)
    patched: Any = supervisor
    patched.usable_cores = lambda: CORES
    plan = plan_processes(settings, CORES, gpus=lambda: 0)
    exit_with(settings, lambda: supervisor.supervise(settings, plan, "tests.e2e.slow_children"))
