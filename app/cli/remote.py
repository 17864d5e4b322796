"""Classify files by a server, and what all commands with ``--url`` share."""

import argparse
import asyncio
import math
import os
import sys
from contextlib import aclosing
from dataclasses import asdict
from typing import Any, TypeVar

from xcit_client import (
    NO_RETRIES,
    AsyncClient,
    ClientError,
    Health,
    InvalidOption,
    Prediction,
    Unauthorized,
    UnexpectedAnswer,
    Unreachable,
    UnreadableImage,
)

from app.cli.options import check_top_k
from app.cli.output import complain, show_answers
from app.config.secret_files import read_secret
from app.config.settings import CLIENT_KEY, CLIENT_KEY_FILE, SettingsError, read_dotenv

FATAL = (Unreachable, Unauthorized, UnexpectedAnswer)  # every further image would fail as well
DEFAULT_CONCURRENCY = "8"
FEW = 16  # images; no progress is shown for so few
BOUNDS = {
    "concurrency": (1, 512),
    "rate": (0.01, 10_000),
    "seconds": (0.1, 3600),
    "timeout": (0.1, 600),
    "warmup": (0, 600),
}

Number = TypeVar("Number", int, float)


def predict_remotely(args: argparse.Namespace) -> int:
    """Print the best classes of each image; images that fail are reported and skipped."""
    try:
        answers, failures = asyncio.run(classify(args))
    except InvalidOption as error:
        raise SettingsError(str(error)) from error
    except ClientError as error:
        return complain(str(error))
    show_answers(answers, as_json=args.json)
    return complain(*failures) if failures else 0


async def classify(args: argparse.Namespace) -> tuple[list[dict[str, Any]], list[str]]:
    """An answer for each image that was classified, and a message for each that was not."""
    (concurrency,) = numbers("concurrency", args.concurrency or DEFAULT_CONCURRENCY, int)
    answers: list[dict[str, Any]] = []
    failures: list[str] = []
    model = (await read_health(args)).model  # not known while it loads
    async with AsyncClient(args.url, api_key(args), timeout(args)) as client:
        if args.top_k is not None:
            check_top_k(args.top_k, model.num_classes if model else math.inf)
        outcomes = client.predict_many(
            args.images,
            args.top_k,
            concurrency=concurrency,
            progress=len(args.images) > FEW and sys.stderr.isatty(),
        )
        async with aclosing(outcomes):
            paths = iter(args.images)
            async for outcome in outcomes:
                path = next(paths)
                if isinstance(outcome, Prediction):
                    answers.append({"file": str(path), "predictions": rows(outcome)})
                elif isinstance(outcome, UnreadableImage):
                    failures.append(str(outcome))
                else:
                    failures.append(f"{path}: {outcome}")
                if isinstance(outcome, FATAL):
                    break
    return answers, failures


async def read_health(args: argparse.Namespace) -> Health:
    """The state of the server, without retries: a wrong URL is reported at once."""
    async with AsyncClient(args.url, api_key(args), timeout(args), retries=NO_RETRIES) as client:
        return await client.health()


def rows(prediction: Prediction) -> list[dict[str, Any]]:
    """The rows of a prediction, without the fields that are unknown."""
    return [
        {name: value for name, value in asdict(row).items() if value is not None}
        for row in prediction.rows
    ]


def api_key(args: argparse.Namespace) -> str | None:
    """The API key to send, from the flag, the environment or ``.env``, in this order.

    Raises:
        SettingsError: it cannot be read.
    """
    if args.api_key:
        return str(args.api_key)
    for variables in (os.environ, read_dotenv()):
        key = read_secret(CLIENT_KEY, variables.get(CLIENT_KEY), variables.get(CLIENT_KEY_FILE))
        if key:
            return key
    return None


def timeout(args: argparse.Namespace) -> float:
    return number("timeout", args.timeout or "30")


def numbers(name: str, text: str, kind: type[Number]) -> list[Number]:
    """The comma-separated values of the flag ``name``; raises `SettingsError` out of bounds."""
    low, high = BOUNDS[name]
    try:
        found = [kind(part) for part in text.split(",")]
    except ValueError as error:
        noun = "whole numbers" if kind is int else "numbers"
        raise SettingsError(f"--{name}={text}: must be {noun}, separated by commas") from error
    if not all(low <= number <= high for number in found):
        raise SettingsError(f"--{name}={text}: must be from {low} to {high:,}")
    return found


def number(name: str, text: str) -> float:
    """The value of the flag ``name``; raises `SettingsError` out of bounds."""
    found = numbers(name, text, float)
    if len(found) > 1:
        raise SettingsError(f"--{name}={text}: must be one number")
    return found[0]
