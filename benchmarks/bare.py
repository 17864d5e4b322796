"""A bare ASGI application, as a yardstick for the web side of a worker.

    python -m benchmarks.bare PORT

It reads a body, passes it to a thread, and answers with constant JSON. It has no limits, ids,
metrics, timeouts or errors.
"""

import asyncio
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvicorn

ROWS = [{"class_id": number, "label": "nothing", "score": 0.1} for number in range(5)]
ANSWER = {"model": {"name": "bare", "version": "1"}, "predictions": ROWS}

decoders = ThreadPoolExecutor(2)


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    pieces, more = [], True
    while more:
        message = await receive()
        pieces.append(message.get("body", b""))
        more = message.get("more_body", False)
    await asyncio.get_running_loop().run_in_executor(decoders, len, b"".join(pieces))
    content = json.dumps(ANSWER).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), lifespan="off", access_log=False, log_level="error")
