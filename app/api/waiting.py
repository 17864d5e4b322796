"""How long is waited for a client: for its body, and for it to be there when the answer is."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

from app.errors import ClientDisconnected, RequestTimeout
from app.record import RequestRecord

Result = TypeVar("Result")


async def receive(record: RequestRecord, reading: Coroutine[Any, Any, Result]) -> Result:
    """The result of ``reading`` a body, a phase; raises `RequestTimeout` if it takes too long."""
    try:
        with record.timings.phase("read"):
            async with asyncio.timeout_at(record.deadline):
                return await reading
    except TimeoutError as error:
        raise RequestTimeout("the body did not arrive in time; send it at once") from error


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
