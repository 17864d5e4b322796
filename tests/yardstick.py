"""How slow this machine is, measured in the same run as what is compared with it."""

import json
import time

TEXT = json.dumps([{"name": f"item {i}", "numbers": [i, i / 3]} for i in range(1000)])
BLOCK = bytes(4 * 2**20)
# CPU time of `_work` where the bounds of the tests were measured: 2 cores, Linux, Python 3.11.
REFERENCE_SECONDS = 0.002


def slowness() -> float:
    """The CPU time of fixed work here, as a multiple of `REFERENCE_SECONDS`, and at least 1.

    Bounds on CPU time are multiplied by it. It is measured at each call, since other processes
    compete for caches, memory bandwidth and clock frequency.
    """
    return max(1.0, min(_work() for _ in range(3)) / REFERENCE_SECONDS)


def _work() -> float:
    """CPU seconds of parsing, interpreting and copying."""
    begun = time.thread_time()
    rows = json.loads(TEXT)
    total = 0.0
    for row in rows * 5:
        total += row["numbers"][1]
    bytearray(BLOCK)
    json.dumps(rows)
    return time.thread_time() - begun
