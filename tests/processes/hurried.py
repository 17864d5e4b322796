"""The service, whose workers are replaced at once, however often they end, and soon if they hang.

python -m tests.processes.hurried serve
"""

import sys

from app.cli.main import main
from app.processes import children, family

SILENCE = 3.0  # seconds

if __name__ == "__main__":
    children.BACKOFF = (0.0,)
    children.MAX_DEATHS = sys.maxsize
    family.WORKER_SILENCE = SILENCE
    sys.exit(main(sys.argv[1:]))
