"""Every setting, once: environment variable, flag, help text and documentation in one place."""

import difflib
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

ENV_PREFIX = "XCIT_"
CLIENT_KEY = f"{ENV_PREFIX}CLIENT_KEY"  # no setting: the key that commands show to a server
CLIENT_KEY_FILE = f"{CLIENT_KEY}_FILE"  # the same, as the path of a file
ROOT_PATH = re.compile(r"(/(?!\.{1,2}(/|$))[\w.~-]+)*", re.ASCII)


class SettingsError(Exception):
    """Settings that cannot be used; one line of text for each."""


def _check_device(value: str) -> str:
    kind, _, index = value.partition(":")
    if kind not in {"auto", "cpu", "cuda", "mps"} or (index and not index.isdigit()):
        raise ValueError("must be auto, cpu, cuda, cuda:N or mps")
    return value


def _check_root_path(value: str) -> str:
    path = value.removesuffix("/")
    if not ROOT_PATH.fullmatch(path):
        raise ValueError("must be a path of letters, digits and -._~, such as /models/xcit")
    return path


class Settings(BaseSettings):
    """Settings of the service: ``XCIT_…`` in the environment, or ``--…`` as a flag, which wins."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_file=".env",
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
    )

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all of the machine's."""

    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 for any free one."""

    root_path: Annotated[str, AfterValidator(_check_root_path)] = ""
    """Path prefix under which a proxy publishes the service, such as /models/xcit."""

    checkpoint: str | None = None
    """Weight file, published variant or hf-hub:OWNER/NAME to serve; the bundled one by default."""

    labels: Path | None = None
    """File of class names, one a line or JSON; wins over the checkpoint's own."""

    preprocess: dict[str, Any] | None = None
    """Preprocessing that wins over the checkpoint's own, as JSON: {"crop_pct": 0.875}."""

    image_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Pixels a side of the model's input, for families whose positions fit any grid."""

    hyperparameters: dict[str, Any] | None = None
    """What the weights do not tell and the defaults get wrong, as JSON: {"tokens_norm": true}."""

    device: Annotated[str, AfterValidator(_check_device)] = "auto"
    """auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:N or mps."""

    backend: Literal["auto", "torch", "openvino"] = "auto"
    """Who runs the forward pass; auto is OpenVINO on a CPU where it is installed, else PyTorch."""

    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of the forward pass; auto is 16 bits where the hardware has them, else 32."""

    streams: Annotated[int, Field(ge=1, le=256)] | None = None
    """Batches run side by side; by default two on a GPU, and what measures fastest on a CPU."""

    cache_dir: Annotated[Path | None, BeforeValidator(lambda text: text or None)] = Path(
        "~/.cache/xcit-serve"
    )
    """Directory where compiled models are kept for the next start; empty to keep none."""

    preprocess_workers: Annotated[int, Field(ge=1, le=256)] | None = None
    """Threads that decode images; by default one for each core."""

    max_batch_size: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Images a batch, at most; by default the fewest that measure nearly fastest."""

    max_batch_delay_ms: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """How long the oldest image may wait for a fuller batch while a stream is free."""

    max_queue_size: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Images admitted and not yet answered, at most; more are refused with 503."""

    max_queue_bytes: Annotated[int, Field(ge=1)] = 256 * 2**20
    """Bytes of encoded images admitted and not yet answered, at most."""

    max_body_bytes: Annotated[int, Field(ge=1)] = 20 * 2**20
    """Bytes of a request's body, at most; more are refused with 413."""

    max_pixels: Annotated[int, Field(ge=1, le=178_000_000)] = 50_000_000
    """Pixels of an image, at most, judged from its header; more are refused with 413."""

    request_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """Seconds from a request's head until it is answered with 504, or 408 for want of its body."""

    batch_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """Seconds that a batch may take; one that takes longer hangs, and the process ends."""

    reload_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 600.0
    """Seconds that loading another model may take; after that the old one stays."""

    head_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """Seconds for the request line and the headers of a request to arrive."""

    keep_alive_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 5.0
    """Seconds that a connection may be idle between two requests."""

    drain_delay_s: Annotated[float, Field(ge=0, le=3600)] = 2.0
    """Seconds after SIGTERM in which requests are still served, while /readyz says 503."""

    drain_timeout_s: Annotated[int, Field(ge=1, le=3600)] = 20
    """Seconds after that for the admitted requests to end."""

    api_keys_file: Path | None = None
    """File of API keys, made by xcit-serve key; with it /predict is for who has one."""

    metrics_need_key: bool = True
    """Whether /metrics requires a key when API keys are on."""

    admin_token: SecretStr | None = None
    """Token for POST /admin/reload; without one the route does not exist."""

    admin_token_file: Annotated[Path | None, BeforeValidator(lambda text: text or None)] = None
    """Path of a file that holds the admin token, instead of XCIT_ADMIN_TOKEN."""

    allowed_hosts: str = ""
    """Host names to answer to, separated by commas. Default: loopback names on loopback, else *."""

    cors_origins: str = ""
    """Origins allowed to call the API from a browser, separated by commas; * for any."""

    cloud: Annotated[
        Literal["sagemaker", "vertex"] | None, BeforeValidator(lambda text: text or None)
    ] = None
    """Whose container to be beside: sagemaker or vertex, with its routes and on its port."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe messages to log."""

    log_format: Literal["json", "text"] = "text"
    """One JSON object a line, or plain text."""

    tracing: bool = False
    """Whether requests are traced by OpenTelemetry, as its variables OTEL_… say."""


def read_settings(**flags: Any) -> Settings:
    """Settings from environment, ``.env`` and flags; raises `SettingsError`, a line a mistake."""
    try:
        return Settings(**flags)
    except ValidationError as error:
        lines = []
        for mistake in error.errors():
            name = str(mistake["loc"][0])
            source = f"--{name.replace('_', '-')}" if name in flags else ENV_PREFIX + name.upper()
            lines.append(f"{source}={mistake['input']!s}: {mistake['msg']}")
        raise SettingsError("\n".join(lines)) from error


def unknown_variables() -> list[str]:
    """A line for each ``XCIT_`` variable that is no setting: most likely a slip of the pen."""
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields}
    lines = []
    for name in sorted(set(os.environ) - known - {CLIENT_KEY, CLIENT_KEY_FILE}):
        if name.startswith(ENV_PREFIX):
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            lines.append(f"{name} is no setting and has no effect{hint}")
    return lines
