"""The asynchronous client."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import aclosing
from typing import Any, Self

import httpx

from xcit_client import exchange
from xcit_client.bodies import Body
from xcit_client.errors import ClientError, bare
from xcit_client.images import ImageLike, encode
from xcit_client.parallel import in_tasks
from xcit_client.progress import check_progress, progress_bar
from xcit_client.results import Health, Prediction
from xcit_client.retries import RETRIES, Attempts, Retries


class AsyncClient:
    """A client of the service at ``url``; `aclose` closes its connections.

    Its arguments are those of `xcit_client.Client`.
    """

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
        """The best classes of an image.

        Args:
            image: a path, encoded bytes, a PIL image or an array; see `xcit_client.images.encode`.
            top_k: number of classes. Default: 5, or all classes of a model that has fewer.

        Raises:
            ClientError: the request failed; each kind is in `xcit_client.errors`.
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
        """Yield one result per image, in order: its prediction or its error.

        Images are taken from the iterable, and files are read, shortly before they are sent.

        Args:
            top_k: see `predict`.
            concurrency: maximum number of requests in flight.
            progress: draw a progress bar on stderr. Needs tqdm.

        Raises:
            InvalidOption: ``concurrency`` is below 1, or tqdm is not installed.
        """
        exchange.check_concurrency(concurrency)
        check_progress(progress)
        return self._predict_many(images, top_k, concurrency, progress=progress)

    async def explain(self, image: ImageLike, head: int | None = None) -> bytes:
        """The attention of the model in the image, as a PNG.

        Args:
            head: index of a class-attention head. Default: the mean of all heads.
        """
        request = exchange.explain_request(await _encode(image), head)
        return exchange.read_picture(await self._send(request))

    async def health(self) -> Health:
        """The state of the service and the model it serves."""
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

        with progress_bar(images, show=progress) as shown:
            async with aclosing(in_tasks(work, images, concurrency)) as outcomes:
                async for outcome in outcomes:
                    shown.update()
                    yield outcome

    async def _send(self, request: dict[str, Any]) -> httpx.Response:
        """Send a request, with retries."""
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
    """Encode in a thread, unless the image is already encoded."""
    if isinstance(image, bytes):
        return encode(image)
    return await asyncio.to_thread(encode, image)
