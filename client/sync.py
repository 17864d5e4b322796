"""The client for code that waits."""

import threading
from collections.abc import Generator, Iterable
from contextlib import closing
from typing import Any, Self

import httpx

from client import exchange
from client.bodies import Body
from client.errors import ClientError, bare
from client.images import ImageLike, encode
from client.ordered import in_threads
from client.progress import bar
from client.results import Health, Prediction
from client.retries import RETRIES, Attempts, Retries


class Client:
    """A service at ``url``, for threads; connections are kept until `close`.

    Args:
        timeout: seconds to connect, and again to wait for an answer.
        retries: of requests that were refused for now, or met nobody.
        transport: what carries the requests, instead of the network.

    Raises:
        InvalidOption: the URL, the key or the timeout cannot be used.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        timeout: float = exchange.TIMEOUT,
        *,
        retries: Retries = RETRIES,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(**exchange.options(url, api_key, timeout), transport=transport)
        self._url, self._timeout, self._retries = exchange.check_url(url), timeout, retries

    def predict(self, image: ImageLike, top_k: int | None = None) -> Prediction:
        """The best classes of an image; see `client.images.encode` for what may be one.

        Args:
            top_k: how many; by default the service decides: 5, or all of a model with fewer.

        Raises:
            ClientError: the request failed; each kind is in `client.errors`.
        """
        return self._predict(image, top_k, threading.Event())

    def predict_many(
        self,
        images: Iterable[ImageLike],
        top_k: int | None = None,
        *,
        concurrency: int = 8,
        progress: bool = False,
    ) -> Generator[Prediction | ClientError, None, None]:
        """The outcome of each image, in order: its classes, or its error.

        Images are taken from the iterable, and files read, as their turn comes.

        Args:
            top_k: see `predict`.
            concurrency: maximum number of requests in flight.
            progress: whether to draw a bar on stderr.
        """
        exchange.check_concurrency(concurrency)
        return self._predict_many(images, top_k, concurrency, progress=progress)

    def explain(self, image: ImageLike, head: int | None = None) -> bytes:
        """A PNG of where the model looked: a head of its class attention, or the mean of all."""
        request = exchange.explain_request(encode(image), head)
        return exchange.read_picture(self._send(request, threading.Event()))

    def health(self) -> Health:
        """What is served, by what, and how it is doing."""
        return exchange.read_health(self._send(exchange.health_request(), threading.Event()))

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _predict_many(
        self, images: Iterable[ImageLike], top_k: int | None, concurrency: int, *, progress: bool
    ) -> Generator[Prediction | ClientError, None, None]:
        stop = threading.Event()

        def work(image: ImageLike) -> Prediction | ClientError:
            try:
                return self._predict(image, top_k, stop)
            except ClientError as error:
                return bare(error)

        outcomes = in_threads(work, images, concurrency, stop.set)
        with bar(images, show=progress) as shown, closing(outcomes):
            for outcome in outcomes:
                shown.update()
                yield outcome

    def _predict(self, image: ImageLike, top_k: int | None, stop: threading.Event) -> Prediction:
        request = exchange.predict_request(encode(image), top_k)
        return exchange.read_prediction(self._send(request, stop))

    def _send(self, request: dict[str, Any], stop: threading.Event) -> httpx.Response:
        """A good answer, after as many tries as it takes; ``stop`` ends a pause between them."""
        attempts = Attempts(self._retries)
        while True:
            try:
                return self._try(request)
            except ClientError as error:
                if stop.wait(attempts.pause_after(error)):
                    raise

    def _try(self, request: dict[str, Any]) -> httpx.Response:
        try:
            with self._http.stream(**request) as response:
                body = Body(response, self._timeout)
                for chunk in response.iter_bytes():
                    body.add(chunk)
        except httpx.RequestError as error:
            raise exchange.no_answer(error, self._url, self._timeout) from error
        answer = body.whole()
        exchange.raise_unless_ok(answer)
        return answer
