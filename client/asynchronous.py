"""The client for code on an event loop."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import aclosing
from typing import Any, Self

import httpx

from client import exchange
from client.bodies import Body
from client.errors import ClientError, bare
from client.images import ImageLike, encode
from client.ordered import in_tasks
from client.progress import bar
from client.results import Health, Prediction
from client.retries import RETRIES, Attempts, Retries


class AsyncClient:
    """A service at ``url``, for tasks; connections are kept until `aclose`. See `client.Client`."""

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        timeout: float = exchange.TIMEOUT,
        *,
        retries: Retries = RETRIES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(
            **exchange.options(url, api_key, timeout), transport=transport
        )
        self._url, self._timeout, self._retries = exchange.check_url(url), timeout, retries

    async def predict(self, image: ImageLike, top_k: int | None = None) -> Prediction:
        """The best classes of an image; see `client.images.encode` for what may be one.

        Args:
            top_k: how many; by default the service decides: 5, or all of a model with fewer.

        Raises:
            ClientError: the request failed; each kind is in `client.errors`.
        """
        request = exchange.predict_request(await _encode(image), top_k)
        return exchange.read_prediction(await self._send(request))

    def predict_many(
        self,
        images: Iterable[ImageLike] | AsyncIterable[ImageLike],
        top_k: int | None = None,
        *,
        concurrency: int = 8,
        progress: bool = False,
    ) -> AsyncGenerator[Prediction | ClientError, None]:
        """The outcome of each image, in order: its classes, or its error.

        Images are taken from the iterable, and files read, as their turn comes.

        Args:
            top_k: see `predict`.
            concurrency: maximum number of requests in flight.
            progress: whether to draw a bar on stderr.
        """
        exchange.check_concurrency(concurrency)
        return self._predict_many(images, top_k, concurrency, progress=progress)

    async def explain(self, image: ImageLike, head: int | None = None) -> bytes:
        """A PNG of where the model looked: a head of its class attention, or the mean of all."""
        request = exchange.explain_request(await _encode(image), head)
        return exchange.read_picture(await self._send(request))

    async def health(self) -> Health:
        """What is served, by what, and how it is doing."""
        return exchange.read_health(await self._send(exchange.health_request()))

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _predict_many(
        self,
        images: Iterable[ImageLike] | AsyncIterable[ImageLike],
        top_k: int | None,
        concurrency: int,
        *,
        progress: bool,
    ) -> AsyncGenerator[Prediction | ClientError, None]:
        async def work(image: ImageLike) -> Prediction | ClientError:
            try:
                return await self.predict(image, top_k)
            except ClientError as error:
                return bare(error)

        with bar(images, show=progress) as shown:
            async with aclosing(in_tasks(work, images, concurrency)) as outcomes:
                async for outcome in outcomes:
                    shown.update()
                    yield outcome

    async def _send(self, request: dict[str, Any]) -> httpx.Response:
        """A good answer, after as many tries as it takes."""
        attempts = Attempts(self._retries)
        while True:
            try:
                return await self._try(request)
            except ClientError as error:
                await asyncio.sleep(attempts.pause_after(error))

    async def _try(self, request: dict[str, Any]) -> httpx.Response:
        try:
            async with self._http.stream(**request) as response:
                body = Body(response, self._timeout)
                async for chunk in response.aiter_bytes():
                    body.add(chunk)
        except httpx.RequestError as error:
            raise exchange.no_answer(error, self._url, self._timeout) from error
        answer = body.whole()
        exchange.raise_unless_ok(answer)
        return answer


async def _encode(image: ImageLike) -> bytes:
    """In a thread, as files and PNG take their time; bytes are there already."""
    if isinstance(image, bytes):
        return encode(image)
    return await asyncio.to_thread(encode, image)
