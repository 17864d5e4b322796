"""Reading the body of an answer, with limits on its size and time.

The server may not be xcit-serve, so the clients limit everything that they read, and refuse
compressed answers.
"""

import time
from collections.abc import Callable

import httpx

from xcit_client.errors import TimedOut, UnexpectedAnswer

MAX_JSON = 4 * 2**20  # bytes
MAX_PICTURE = 32 * 2**20  # bytes


class Body:
    """Collects the body of ``response``.

    Args:
        timeout: seconds within which the whole body must arrive.

    Raises:
        UnexpectedAnswer: the body is compressed.
    """

    def __init__(
        self,
        response: httpx.Response,
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._response, self._timeout, self._clock = response, timeout, clock
        self._latest = clock() + timeout
        is_picture = response.status_code == 200 and response.request.url.path.endswith("/explain")
        self._limit = MAX_PICTURE if is_picture else MAX_JSON
        self._content = bytearray()
        coding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if coding != "identity":
            raise self._refused(f"the content coding {coding[:20]}, which was not requested")

    def add(self, chunk: bytes) -> None:
        """Raises `UnexpectedAnswer` above the size limit, `TimedOut` after ``timeout``."""
        self._content += chunk
        if len(self._content) > self._limit:
            raise self._refused(f"more than {self._limit} bytes")
        if self._clock() > self._latest:
            host = self._response.request.url.copy_with(raw_path=b"/")
            raise TimedOut(f"{host} did not send the whole answer within {self._timeout:g} s")

    def whole(self) -> httpx.Response:
        """The response with its body."""
        return httpx.Response(
            self._response.status_code,
            headers=self._response.headers,
            content=bytes(self._content),
            request=self._response.request,
        )

    def _refused(self, what: str) -> UnexpectedAnswer:
        where = self._response.request.url.copy_with(query=None)
        return UnexpectedAnswer(
            f"{self._response.request.method} {where} answered with {what}; is it xcit-serve?",
            self._response.status_code,
        )
