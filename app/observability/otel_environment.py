"""The environment variables of OpenTelemetry, hidden from an import and checked before use."""

import re
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from app.config.settings import SettingsError

if TYPE_CHECKING:  # OpenTelemetry is imported only where requests are traced
    from opentelemetry.propagators.textmap import TextMapPropagator

PREFIX = "OTEL_"
PROPAGATORS = "OTEL_PROPAGATORS"
COMPRESSIONS = {"deflate", "gzip", "none"}
CHOICES = {
    "OTEL_TRACES_EXPORTER": {"none", "otlp"},
    "OTEL_EXPORTER_OTLP_COMPRESSION": COMPRESSIONS,
    "OTEL_EXPORTER_OTLP_PROTOCOL": {"http/protobuf"},
    "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": COMPRESSIONS,
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": {"http/protobuf"},
}
PLUGINS = {  # variables that name an entry point, with the entry point's group
    "OTEL_PYTHON_METER_PROVIDER": "opentelemetry_meter_provider",
    "OTEL_TRACES_SAMPLER": "opentelemetry_traces_sampler",
}
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
NUMBERS = (
    *("OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT"),
    "OTEL_TRACES_SAMPLER_ARG",
)
WHOLE_NUMBERS = (
    *("OTEL_BSP_EXPORT_TIMEOUT", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"),
    *("OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_SCHEDULE_DELAY"),
)
NUMBER = re.compile(r"\d+(\.\d+)?", re.ASCII)


@contextmanager
def without_opentelemetry(environ: MutableMapping[str, str]) -> Iterator[None]:
    """Hide the variables.

    FastAPI imports OpenTelemetry's API whether or not requests are traced, and the import fails for
    some values, such as a propagator that is not installed.
    """
    hidden = {name: environ.pop(name) for name in list(environ) if name.startswith(PREFIX)}
    try:
        yield
    finally:
        environ.update(hidden)


def check_environment(environ: Mapping[str, str]) -> None:
    """Raises `SettingsError` for a value that OpenTelemetry would ignore or fail on."""
    plugins = {name: entry_points(group=group).names for name, group in PLUGINS.items()}
    for name, known in (CHOICES | plugins).items():
        value = environ.get(name)
        if value and value not in known:
            raise SettingsError(f"{name}={value}: must be {' or '.join(sorted(known))}")
    for name in ENDPOINTS:
        value = environ.get(name)
        if value and not value.startswith(("http://", "https://")):
            raise SettingsError(f"{name}={value}: must begin with http:// or https://")
    for name in (*NUMBERS, *WHOLE_NUMBERS):
        value, whole = environ.get(name), name in WHOLE_NUMBERS
        if value and not (value.isdecimal() if whole else NUMBER.fullmatch(value)):
            raise SettingsError(f"{name}={value}: must be a {'whole ' * whole}number")


def read_propagators(environ: Mapping[str, str]) -> "list[TextMapPropagator]":
    """The propagators in ``OTEL_PROPAGATORS``, which extract the trace of the caller.

    Baggage is left out, because the service calls no other service.

    Raises:
        SettingsError: a propagator is not installed, or cannot be loaded.
    """
    names = [name.strip() for name in (environ.get(PROPAGATORS) or "tracecontext").split(",")]
    if "none" in names:
        return []
    return [_load_propagator(name) for name in names if name != "baggage"]


def _load_propagator(name: str) -> "TextMapPropagator":
    installed = entry_points(group="opentelemetry_propagator")
    if name not in installed.names:
        known = ", ".join(sorted({*installed.names, "none"}))
        raise SettingsError(f"{PROPAGATORS}={name}: not installed; available are {known}")
    try:
        propagator: TextMapPropagator = installed[name].load()()
    except Exception as error:
        raise SettingsError(f"{PROPAGATORS}={name}: cannot be loaded: {error}") from error
    return propagator
