"""Tracing, for services that want it: OpenTelemetry is imported only then."""

from typing import TYPE_CHECKING

from app.config.settings import ENV_PREFIX, SettingsError

if TYPE_CHECKING:
    from app.observability.tracing import Tracing


def open_tracing() -> "Tracing":
    """Start tracing; raises `SettingsError` if OpenTelemetry cannot be used."""
    try:
        from app.observability.tracing import Tracing

        return Tracing()
    except ImportError as error:
        raise SettingsError(
            f"{ENV_PREFIX}TRACING needs OpenTelemetry: pip install 'xcit-serve[tracing]'"
        ) from error
    except ValueError as error:  # from OpenTelemetry
        raise SettingsError(f"an OTEL_… variable has an invalid value: {error}") from error
