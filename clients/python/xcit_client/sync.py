"""The synchronous client."""

import threading
from collections.abc import Generator, Iterable
from contextlib import closing
from typing import Any, Self

import httpx

from xcit_client import exchange
from xcit_client.bodies import Body
from xcit_client.errors import ClientError, bare
from xcit_client.images import ImageLike, encode
from xcit_client.parallel import in_threads
from xcit_client.progress import check_progress, progress_bar
from xcit_client.results import Health, Prediction
from xcit_client.retries import RETRIES, Attempts, Retries


class Client:
    """A client of the service at ``url``. Threads may share it; `close` closes its connections.

    Args:
        api_key: sent as a bearer token.
        timeout: seconds to connect, and seconds to wait for the answer.
        retries: how long to retry while the service is unreachable or not ready.
        transport: replaces the network, for tests.

    Raises:
        InvalidOption: the URL, the key or the timeout is not valid.
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
        """The best classes of an image.

        Args:
            image: a path, encoded bytes, a PIL image or an array; see `xcit_client.images.encode`.
            top_k: number of classes. Default: 5, or all classes of a model that has fewer.

        Raises:
            ClientError: the request failed; each kind is in `xcit_client.errors`.
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

    def explain(self, image: ImageLike, head: int | None = None) -> bytes:
        """The attention of the model in the image, as a PNG.

        Args:
            head: index of a class-attention head. Default: the mean of all heads.
        """
        request = exchange.explain_request(encode(image), head)
        return exchange.read_picture(self._send(request, threading.Event()))

    def health(self) -> Health:
        """The state of the service and the model it serves."""
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
        with progress_bar(images, show=progress) as shown, closing(outcomes):
            for outcome in outcomes:
                shown.update()
                yield outcome

    def _predict(self, image: ImageLike, top_k: int | None, stop: threading.Event) -> Prediction:
        request = exchange.predict_request(encode(image), top_k)
        return exchange.read_prediction(self._send(request, stop))

    def _send(self, request: dict[str, Any], stop: threading.Event) -> httpx.Response:
        """Send a request, with retries; ``stop`` ends the pause before a retry."""
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
