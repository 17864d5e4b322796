"""Timeouts of a request's body and of the work on it, and the client's disconnect."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

from app.observability.record import RequestRecord
from app.serving.errors import ClientDisconnected, DeadlineExceeded, RequestTimeout

Result = TypeVar("Result")


async def receive(record: RequestRecord, reading: Coroutine[Any, Any, Result]) -> Result:
    """The result of ``reading`` a body, as phase ``read``.

    Raises:
        RequestTimeout: the body did not arrive before the request's deadline.
    """
    try:
        with record.timings.phase("read"):
            async with asyncio.timeout_at(record.deadline):
                return await reading
    except TimeoutError as error:
        raise RequestTimeout("the body did not arrive in time; send it at once") from error


async def in_time(record: RequestRecord, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of ``work`` on a body that has arrived, as phase ``read``.

    Raises:
        DeadlineExceeded: it was not done before the request's deadline.
    """
    try:
        with record.timings.phase("read"):
            async with asyncio.timeout_at(record.deadline):
                return await work
    except TimeoutError as error:
        seconds = record.deadline - record.timings.started
        raise DeadlineExceeded(f"not answered within {seconds:g} s") from error


async def while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of ``work``, which is cancelled if the client leaves before it is done."""
    handler = asyncio.current_task()
    assert handler is not None
    left = False

    async def watch() -> None:
        nonlocal left
        while (await request.receive())["type"] != "http.disconnect":
            pass  # the body has been read before
        left = True
        handler.cancel()

    watching = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if not left:
            raise
        handler.uncancel()
        raise ClientDisconnected("the client left before its answer was there") from None
    finally:
        watching.cancel()
