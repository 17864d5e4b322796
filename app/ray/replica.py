"""One replica of Ray Serve: the service with its engine."""

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI
from pydantic import ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.config.process_plan import ProcessPlan
from app.config.settings import DEFAULT_TOP_K, Settings
from app.http.app import create_app
from app.http.parameters import parse_top_k
from app.http.service import Service
from app.observability.logs import set_up_logs
from app.observability.record import RequestRecord, current_record, new_request_id
from app.ray.answers import (
    BatchAnswer,
    Image,
    ImageAnswer,
    to_answer,
    to_batch_answer,
    to_input,
)
from app.ray.arguments import Arguments, UserConfig
from app.ray.resources import apply, assigned
from app.serving.classifier import Classifier
from app.serving.errors import InternalError, InvalidParameter, ReloadInProgress, ServiceError
from app.serving.heap import keep_heap
from app.serving.held_bytes import size_of_all
from app.serving.lifecycle import Lifecycle, State
from app.serving.threads import TURN_SECONDS

logger = logging.getLogger(__name__)

Load = Callable[[Settings, int], Classifier]
REQUEST_ID = b"x-request-id"
RETRY_SECONDS = 0.5
LAST_ANSWERS = 1.0  # seconds after a failure in which open requests are answered


class Replica:
    """The service of one replica, for HTTP and for Python callers.

    Ray Serve calls `__serve_build_asgi_app__`, then `reconfigure`, which loads the model; after
    that the replica gets requests.

    Args:
        load: makes the classifier from the settings and the number of cores.
    """

    def __init__(self, arguments: dict[str, Any], load: Load) -> None:
        resources = assigned()
        self._settings = apply(Arguments.model_validate(arguments).read(), resources)
        self._checkpoint = self._settings.checkpoint
        self._load = load
        self._cores = resources.cores
        self._alone = resources.alone
        self._config: UserConfig | None = None
        self._configured = threading.Event()
        self._loaded = asyncio.Event()
        self._lifecycle = Lifecycle()
        self._lifecycle.listen(self._on_state)
        if self._alone:
            sys.setswitchinterval(TURN_SECONDS)
            set_up_logs(self._settings.log_level, self._settings.log_format)
        self._app = create_app(
            self._settings,
            self._load_configured,
            lifecycle=self._lifecycle,
            on_loaded=keep_heap if self._alone else lambda: None,
            plan=ProcessPlan(reason="one process per replica of Ray Serve", cores=self._cores),
        )
        self._app.add_middleware(WithoutRequestId)
        self._service: Service = self._app.state.service

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The application that answers HTTP requests."""
        return self._app

    async def reconfigure(self, user_config: dict[str, Any] | None, rank: object = None) -> None:
        """Load the checkpoint of a configuration: at the start, and whenever it changes.

        If a change cannot be applied, the old checkpoint is still served, because Ray would stop a
        replica that raises. The log says so, and ``xcit_reload_failed`` if loading failed.

        Args:
            rank: makes Ray Serve call this method at the start without a configuration too.

        Raises:
            ValidationError: the first configuration is invalid.
            RuntimeError: the first model cannot be served.
        """
        try:
            config = UserConfig.model_validate(user_config or {})
        except ValidationError as error:
            if self._config is None:
                raise
            logger.error("user_config %s is not applied: %s", user_config, error)
            return
        if config == self._config:
            return  # only the rank has changed
        first, self._config = self._config is None, config
        self._settings = self._settings.model_copy(
            update={"checkpoint": config.checkpoint or self._checkpoint}
        )
        if first:
            self._configured.set()
            await self._loaded.wait()
            await self.check_health()
            return
        try:
            while not await self._reloaded():
                await asyncio.sleep(RETRY_SECONDS)
        except ServiceError as error:
            logger.error("user_config %s is not applied: %s", config, error)

    async def check_health(self) -> None:
        """Raises `RuntimeError` if the service has failed and must be replaced."""
        if not self._lifecycle.alive:
            raise RuntimeError(f"the service has failed: {self._lifecycle.failure}")

    async def predict(
        self, image: Image, top_k: int = DEFAULT_TOP_K, timeout_s: float | None = None
    ) -> ImageAnswer:
        """The best classes of one image; see `app.ray.answers.to_input`.

        Raises:
            ServiceError: the image cannot be classified.
        """
        pipeline = self._service.pipeline
        with self._recorded("predict", timeout_s) as record, pipeline.upload() as hold:
            info = pipeline.served
            given = to_input(image, info)
            top_k = parse_top_k(str(top_k), info.num_classes)
            hold(size_of_all([given]))
            return to_answer(await pipeline.predict(given, top_k, record.deadline, record.timings))

    async def predict_batch(
        self, images: Sequence[Image], top_k: int = DEFAULT_TOP_K, timeout_s: float | None = None
    ) -> BatchAnswer:
        """The best classes of several images; each fails alone.

        Raises:
            ServiceError: none of the images can be classified.
        """
        pipeline = self._service.pipeline
        with self._recorded("predict_batch", timeout_s) as record, pipeline.upload() as hold:
            info = pipeline.served
            given = [to_input(image, info) for image in images]
            top_k = parse_top_k(str(top_k), info.num_classes)
            hold(size_of_all(given))
            answers = await pipeline.predict_many(given, top_k, record.deadline, record.timings)
            answers.raise_if_service_failed()
            return to_batch_answer(answers, record)

    async def _reloaded(self) -> bool:
        """Load the configured checkpoint, unless another reload is in progress."""
        try:
            await self._service.reload()
        except ReloadInProgress:
            return False
        return True

    def _load_configured(self) -> Classifier:
        """Load the model in an inference thread, the first time only after `reconfigure`."""
        self._configured.wait()
        return self._load(self._settings, self._cores)

    def _on_state(self, state: State) -> None:
        if state is State.FAILED and self._loaded.is_set() and self._alone:
            logger.error("failed: %s", self._lifecycle.failure)
            asyncio.get_running_loop().call_later(LAST_ANSWERS, os._exit, 1)
        if state is not State.LOADING:
            self._loaded.set()

    @contextmanager
    def _recorded(self, method: str, timeout_s: float | None) -> Iterator[RequestRecord]:
        """Log and count a call, as the middleware does for HTTP requests."""
        record = RequestRecord(new_request_id(), "CALL", method, endpoint=f"ray:{method}")
        token = current_record.set(record)
        try:
            record.deadline = self._deadline(record, timeout_s)
            yield record
            record.status = 200
        except ServiceError as error:
            record.status, record.rejection = error.status, error.reason()
            raise
        except Exception:
            record.status, record.rejection = InternalError.status, InternalError.reason()
            raise
        finally:
            self._service.observe(record)
            current_record.reset(token)

    def _deadline(self, record: RequestRecord, timeout_s: float | None) -> float:
        if timeout_s is None:
            return self._service.pipeline.deadline(record.timings)
        if not timeout_s > 0:
            raise InvalidParameter(f"timeout_s is {timeout_s!r}; it must be a number above 0")
        return self._service.pipeline.deadline(record.timings, timeout_s)


class WithoutRequestId:
    """Removes the header ``X-Request-ID`` of answers, because the proxy of Ray Serve adds it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_rest(message: Message) -> None:
            if message["type"] == "http.response.start":
                rest = [header for header in message["headers"] if header[0] != REQUEST_ID]
                message = {**message, "headers": rest}
            await send(message)

        await self._app(scope, receive, send_rest)
