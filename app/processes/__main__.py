"""``python -m app.processes``: an engine or a worker, started by the supervisor."""

import sys

from app.processes.child import begin

if __name__ == "__main__":
    role, text = sys.argv[1:]
    child = begin(text)
    if role == "engine":
        from app.processes.engine_process import main
    else:
        from app.processes.worker_process import main
    sys.exit(main(child))
