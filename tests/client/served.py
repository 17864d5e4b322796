"""A client of the whole application on a fake classifier."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from xcit_client import (
    NO_RETRIES,
    AsyncClient,
)

from app.http.app import create_app
from app.serving.lifecycle import Lifecycle, State
from tests.app.conftest import FakeClassifier, make_settings, until


@asynccontextmanager
async def served(
    classifier: FakeClassifier, api_key: str | None = None, **choices: Any
) -> AsyncIterator[AsyncClient]:
    """A client of the whole application on a fake classifier."""
    lifecycle = Lifecycle()
    app = create_app(make_settings(**choices), lambda: classifier, lifecycle=lifecycle)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        AsyncClient("http://service", api_key, retries=NO_RETRIES, transport=transport) as client,
    ):
        await until(lambda: lifecycle.state is not State.LOADING)
        yield client
