"""OpenTelemetry's environment variables and imports."""

import os
import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from app.config.settings import SettingsError
from app.http.app import create_app
from app.observability.otel_environment import without_opentelemetry

from ..conftest import FakeClassifier, make_settings

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin", "must be none or otlp"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "must be http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc", "must be http/protobuf"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "must begin with http"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector", "must begin with http"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "max_queue_size must be a positive integer"),
        ("OTEL_BSP_SCHEDULE_DELAY", "1.5", "must be a whole number"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip", "must be deflate or gzip or none"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "must be a number"),
        ("OTEL_PROPAGATORS", "b3", "OTEL_PROPAGATORS=b3: not installed; available are baggage"),
        ("OTEL_PROPAGATORS", "tracecontext,b4", "OTEL_PROPAGATORS=b4: not installed"),
        ("OTEL_PYTHON_METER_PROVIDER", "mine", "must be default_meter_provider or"),
        ("OTEL_SPAN_LINK_COUNT_LIMIT", "many", "OTEL_SPAN_LINK_COUNT_LIMIT"),
        ("OTEL_TRACES_SAMPLER", "often", "must be always_off or always_on or"),
        ("OTEL_TRACES_SAMPLER_ARG", "half", "must be a number"),
    ],
)
async def test_invalid_opentelemetry_variable_is_reported_at_start(
    variables: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    variables.setenv(name, value)
    with pytest.raises(SettingsError, match=message):
        create_app(make_settings(tracing=True), FakeClassifier)


async def test_tracing_without_opentelemetry_names_the_missing_package(
    variables: pytest.MonkeyPatch,
) -> None:
    variables.delitem(sys.modules, "app.observability.tracing")
    variables.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(SettingsError, match=r"pip install 'xcit-serve\[tracing\]'"):
        create_app(make_settings(tracing=True), FakeClassifier)


async def test_propagator_that_cannot_be_loaded_is_reported_on_one_line(
    variables: pytest.MonkeyPatch,
) -> None:
    broken = EntryPoint("broken", "no_such_module:Propagator", "opentelemetry_propagator")
    installed = EntryPoints([broken])
    variables.setattr("app.observability.otel_environment.entry_points", lambda group: installed)
    variables.setenv("OTEL_PROPAGATORS", "broken")
    with pytest.raises(SettingsError, match=r"^OTEL_PROPAGATORS=broken: cannot be loaded: No mod"):
        create_app(make_settings(tracing=True), FakeClassifier)


def run(program: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    root = Path(__file__).parents[3]
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=root,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_opentelemetry_sdk_is_not_imported_without_tracing() -> None:
    done = run(
        "import sys; import fastapi;"
        "fastapis = set(sys.modules);"
        "from unittest.mock import MagicMock;"
        "sys.modules.update({'model': MagicMock(), 'model.images.preprocess': MagicMock()});"
        "from app.http.app import create_app; from app.config.settings import Settings;"
        "create_app(Settings(), object);"
        "parts = ('opentelemetry', 'google.', 'app.observability.tracing');"
        "print([name for name in set(sys.modules) - fastapis if name.startswith(parts)],"
        "'opentelemetry.sdk' in sys.modules)"
    )
    assert (done.stdout, done.stderr) == ("[] False\n", "")


def test_opentelemetry_variables_are_hidden_from_the_import_of_fastapi() -> None:
    environ = {"OTEL_PROPAGATORS": "b3", "OTEL_PYTHON_CONTEXT": "x", "PATH": "/bin"}
    before = dict(environ)
    with without_opentelemetry(environ):
        assert environ == {"PATH": "/bin"}
    assert environ == before
