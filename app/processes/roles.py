"""The start of a child process in its role."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NoReturn

from app.observability.otel_environment import without_opentelemetry
from app.processes.child import Load, Prepare, begin


def run_role(
    arguments: Sequence[str], find_load: Callable[[], Load], find_prepare: Callable[[], Prepare]
) -> NoReturn:
    """Run the engine or the worker that the command line names, until the supervisor stops it.

    Args:
        find_load: imports and returns what loads an engine's model.
        find_prepare: imports and returns a worker's preparer; see `app.preparation.RemotePreparer`.
    """
    role, text = arguments
    child = begin(text)
    if role == "engine":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the supervisor stops engines, after workers
        load = find_load()
        from app.processes.engine_process import EngineProcess

        _run(lambda: EngineProcess(child, load).run())
        os._exit(0)  # even if an inference thread hangs
    with without_opentelemetry(os.environ):
        prepare = find_prepare()
        from app.processes.worker_process import WorkerProcess

    _run(lambda: WorkerProcess(child, prepare).run())
    sys.exit(0)


def _run(start: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run what ``start`` returns, on uvloop's event loop if it is installed."""

    async def run() -> None:
        await start()

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(run())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
