"""Timeouts for a request's body and for the work on it, and cancellation on disconnect."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

from app.observability.record import RequestRecord
from app.serving.errors import ClientDisconnected, DeadlineExceeded, RequestTimeout

Result = TypeVar("Result")

SHORT = 0.1  # seconds; watching a connection takes a twentieth of the CPU time of a request


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
        raise RequestTimeout(
            "the body did not arrive in time; send all of it right after the headers"
        ) from error


async def in_time(record: RequestRecord, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of ``work`` on a body that has arrived, as phase ``read``.

    Raises:
        DeadlineExceeded: the work was not finished before the request's deadline.
    """
    try:
        with record.timings.phase("read"):
            async with asyncio.timeout_at(record.deadline):
                return await work
    except TimeoutError as error:
        seconds = record.deadline - record.timings.started
        raise DeadlineExceeded(f"not answered within {seconds:g} s") from error


async def while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of ``work``, which is cancelled if the client disconnects.

    Work that ends within `SHORT` seconds is not watched.
    """
    handler = asyncio.current_task()
    assert handler is not None
    left = False

    async def watch() -> None:
        nonlocal left
        while (await request.receive())["type"] != "http.disconnect":
            pass  # the body has already been read
        left = True
        handler.cancel()

    watching: list[asyncio.Task[None]] = []
    alarm = asyncio.get_running_loop().call_later(
        SHORT, lambda: watching.append(asyncio.create_task(watch()))
    )
    try:
        return await work
    except asyncio.CancelledError:
        if not left:
            raise
        handler.uncancel()
        raise ClientDisconnected("the client disconnected before it was answered") from None
    finally:
        alarm.cancel()
        for task in watching:
            task.cancel()
