"""``xcit-serve serve``: serve a checkpoint over HTTP."""

import argparse
import gc
import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import NoReturn

from app.cli.output import complain
from app.cli.parser import Parser, add_settings, settings_in
from app.config.cloud import follow_cloud
from app.config.cpu_quota import usable_cores
from app.config.process_plan import ONE_PROCESS, ProcessPlan, plan_processes
from app.config.settings import ENV_PREFIX, Settings, SettingsError, read_settings
from app.config.unknown_variables import unknown_variables
from app.observability.otel_environment import without_opentelemetry
from app.serving.classifier import Classifier

logger = logging.getLogger(__name__)


def add_arguments(parser: Parser) -> None:
    parser.description = (
        f"Serve a checkpoint. Each flag is also an environment variable: --max-batch-size is "
        f"{ENV_PREFIX}MAX_BATCH_SIZE. Flags take precedence."
    )
    add_settings(parser, Settings.model_fields)


def run(args: argparse.Namespace) -> NoReturn:
    settings = follow_cloud(read_settings(**settings_in(args)), os.environ)

    from app.observability.logs import set_up_logs

    set_up_logs(settings.log_level, settings.log_format)
    for warning in unknown_variables():
        logging.getLogger("app.config.settings").warning(warning)
    plan = plan_processes(settings, usable_cores())
    if plan.workers:
        from app.processes.supervisor import supervise

        exit_with(settings, partial(supervise, settings, plan))

    gc.disable()  # until the model is loaded: collections take a tenth of the start-up time
    from app.loading import load_model

    serve_and_exit(settings, partial(load_model, settings, plan.cores), plan)


def serve_and_exit(
    settings: Settings, load: Callable[[], Classifier], plan: ProcessPlan = ONE_PROCESS
) -> NoReturn:
    """Serve with one process until stopped, then end it; see `exit_with`.

    Args:
        load: makes the classifier, in an inference thread.
        plan: why there is one process.
    """
    logger.info("HTTP workers: %d (%s)", plan.workers, plan.reason)
    with without_opentelemetry(os.environ):
        from app.server.server import serve

    exit_with(settings, partial(serve, settings, load, plan))


def exit_with(settings: Settings, serve: Callable[[], str | None]) -> NoReturn:
    """Serve until stopped, then end the process.

    The exit code is 0 after a clean stop, 1 after a failure, and 2 for settings that cannot be
    used. The reason is in the log; with a text log, it is also the last line on stderr.

    Args:
        serve: returns why the service failed, or ``None``; raises `SettingsError`.
    """
    try:
        failure, code = serve(), 1
    except SettingsError as error:
        failure, code = str(error), 2
        for line in failure.splitlines():
            logger.error("cannot start: %s", line)
    if failure is None:
        end_process(0)
    end_process(code, *(failure.splitlines() if settings.log_format == "text" else ()))


def end_process(code: int, *lines: str) -> NoReturn:
    """Print lines on stderr and end the process, even if a thread hangs."""
    complain(*lines)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
