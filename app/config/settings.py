"""Every setting, declared once: environment variable, flag, help text and documentation."""

import logging
import os
from collections.abc import Callable, Collection, Mapping
from io import StringIO
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.config.values import JsonObject, check_device, check_root_path, check_workers

ENV_PREFIX = "XCIT_"
CLIENT_KEY = f"{ENV_PREFIX}CLIENT_KEY"  # not a setting: the API key that commands send to a server
CLIENT_KEY_FILE = f"{CLIENT_KEY}_FILE"  # the same, as the path of a file
DEFAULT_TOP_K = 5  # not a setting: the classes in an answer if the client does not set top_k
DOTENV = Path(".env")
DOTENV_ENCODING = "utf-8-sig"  # Windows editors begin a file with a byte-order mark
MAX_ENGINES = 16
SHOWN = 100  # characters of an invalid value in its message
MESSAGES = {  # replace pydantic's messages, by error type
    "bool_parsing": "must be true or false",
    "float_parsing": "must be a number",
    "int_parsing": "must be a whole number",
    "string_too_short": "must not be empty",
}


class SettingsError(Exception):
    """Invalid settings; the message has one line for each."""


class Settings(BaseSettings):
    """All settings, from flags, ``XCIT_…`` environment variables or ``.env``, in this order."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_file=DOTENV,
        env_file_encoding=DOTENV_ENCODING,
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _unset_if_empty(cls, value: Any, info: ValidationInfo) -> Any:
        """An empty variable means that an optional setting is not set."""
        optional = NoneType in get_args(cls.model_fields[info.field_name or ""].annotation)
        return None if value == "" and optional else value

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all interfaces."""

    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 for any free port."""

    root_path: Annotated[str, AfterValidator(check_root_path)] = ""
    """Path prefix under which a proxy publishes the service, such as /models/xcit."""

    checkpoint: str | None = None
    """Weight file, published variant or hf-hub:OWNER/NAME. Default: the bundled checkpoint."""

    labels: Path | None = None
    """File of class names, one per line or as JSON; overrides the checkpoint's labels."""

    preprocess: JsonObject = None
    """Preprocessing options that override the checkpoint's, as JSON: {"crop_pct": 0.875}."""

    image_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Side of the model's input in pixels, for model families that accept any size."""

    hyperparameters: JsonObject = None
    """Hyper-parameters that cannot be inferred from the weights, as JSON: {"tokens_norm": true}."""

    temperature: Annotated[float, Field(ge=0.05, le=20)] | None = None
    """Divides the logits before the softmax; overrides the checkpoint's value, and 1 undoes it."""

    device: Annotated[str, AfterValidator(check_device)] = "auto"
    """Device: auto (every CUDA GPU, else MPS, else the CPU), cpu, cuda, cuda:N or mps."""

    backend: Literal["auto", "torch", "openvino"] = "auto"
    """Inference backend; auto selects OpenVINO on a CPU if it is installed, else PyTorch."""

    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision; auto: int8 for a quantised checkpoint, else 16 bits if the hardware has them."""

    compile: bool = False
    """Compile the network on a CUDA device: faster inference, but the first start takes minutes."""

    deterministic: bool = False
    """Compute the same logits for an image in every batch, bit for bit, or fail to start."""

    streams: Annotated[int, Field(ge=1, le=256)] | None = None
    """Batches that run in parallel. Default: 2 on a GPU; on a CPU, the fastest by measurement."""

    cache_dir: Path | None = Path("~/.cache/xcit-serve")
    """Directory in which compiled models are cached between starts; empty for no cache."""

    http_workers: Annotated[int | Literal["auto"], BeforeValidator(check_workers)] = "auto"
    """Processes for HTTP and decoding: auto or a number; 0 for one process that does everything."""

    engines: Annotated[int, Field(ge=1, le=MAX_ENGINES)] | None = None
    """Number of engine processes, which need HTTP workers. Default: one per GPU, or one."""

    preprocess_workers: Annotated[int, Field(ge=1, le=256)] | None = None
    """Decoding threads of each HTTP worker. Default: one per core, divided among the workers."""

    max_batch_size: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Maximum batch size. Default: the smallest within 3 % of the best measured throughput."""

    max_batch_delay_ms: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """Maximum milliseconds for which an image waits for a fuller batch."""

    max_queue_size: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Maximum number of admitted, unanswered images; more are refused with 503."""

    max_queue_bytes: Annotated[int, Field(ge=1)] = 256 * 2**20
    """Maximum total size of the bodies of unanswered requests, in bytes."""

    max_body_bytes: Annotated[int, Field(ge=1)] = 20 * 2**20
    """Maximum size of a request body in bytes; larger ones are refused with 413."""

    max_pixels: Annotated[int, Field(ge=1, le=178_000_000)] = 50_000_000
    """Maximum number of pixels of an image, by its header; larger ones are refused with 413."""

    request_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """Seconds for a request, from its head to its answer; then 504, or 408 for a late body."""

    batch_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """Seconds for a batch; after that it counts as hung and the process exits."""

    reload_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 600.0
    """Seconds for a reload; after that it fails and the old model is still served."""

    head_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """Seconds for the request line and the headers of a request to arrive."""

    keep_alive_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 5.0
    """Seconds that a connection may be idle between two requests."""

    drain_delay_s: Annotated[float, Field(ge=0, le=3600)] = 2.0
    """Seconds after SIGTERM in which requests are still served, while /readyz returns 503."""

    drain_timeout_s: Annotated[int, Field(ge=1, le=3600)] = 20
    """Seconds after the drain delay for admitted requests to finish."""

    api_keys_file: Path | None = None
    """Path of the API key file (see xcit-serve key). When set, /predict requires a key."""

    metrics_need_key: bool = True
    """Whether /metrics requires a key when API keys are on."""

    admin_token: SecretStr | None = None
    """Token for POST /admin/reload. Without it the route does not exist."""

    admin_token_file: Path | None = None
    """Path of a file that holds the admin token; replaces XCIT_ADMIN_TOKEN."""

    allowed_hosts: str = ""
    """Host names to answer to, separated by commas. Default: loopback names on loopback, else *."""

    cors_origins: str = ""
    """Origins allowed to call the API from a browser, separated by commas; * for any."""

    cloud: Literal["sagemaker", "vertex"] | None = None
    """Cloud platform to serve for (sagemaker or vertex); sets its routes and port."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest severity to log."""

    log_format: Literal["json", "text"] = "text"
    """Log format: one JSON object per line, or plain text."""

    tracing: bool = False
    """Whether to trace requests with OpenTelemetry, configured by its OTEL_… variables."""


def read_settings(**flags: Any) -> Settings:
    """Settings from flags, environment and ``.env``.

    Raises:
        SettingsError: a value is invalid, or ``.env`` cannot be read.
    """
    return parse_settings(flags, flag_of)


def parse_settings(given: Mapping[str, Any], name_of: Callable[[str], str]) -> Settings:
    """As `read_settings`, with values from elsewhere in place of flags.

    Args:
        name_of: the name of a given setting, for messages.
    """
    dotenv = read_dotenv()
    try:
        return Settings(**given)
    except ValidationError as error:
        lines = []
        for detail in error.errors():
            name = str(detail["loc"][0])
            source = name_of(name) if name in given else _source_of(name, dotenv)
            lines.append(f"{source}={_shown(detail['input'])}: {_reason(detail)}")
        raise SettingsError("\n".join(lines)) from error


def variable_of(name: str) -> str:
    """The environment variable of the setting ``name``."""
    return ENV_PREFIX + name.upper()


def flag_of(name: str) -> str:
    """The flag of the setting ``name``."""
    return f"--{name.replace('_', '-')}"


def _source_of(name: str, dotenv: Collection[str]) -> str:
    """The variable that set a setting; its case is ignored."""
    variable = variable_of(name)
    only_there = variable in map(str.upper, dotenv) and variable not in map(str.upper, os.environ)
    return f"{DOTENV}: {variable}" if only_there else variable


def _shown(value: object) -> str:
    """An invalid value, on one line of bounded length."""
    text = str(value)
    printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:SHOWN])
    return printable + "…" if len(text) > SHOWN else printable


def _reason(detail: Mapping[str, Any]) -> str:
    """The message about an invalid value."""
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    default = str(detail["msg"]).replace("Input should be", "must be", 1)
    return MESSAGES.get(detail["type"], default)


def read_dotenv() -> Mapping[str, str | None]:
    """The variables in ``.env``, if the file exists; raises `SettingsError`."""
    # `app.config.unknown_variables` reports invalid lines instead.
    logging.getLogger("dotenv").setLevel(logging.ERROR)
    return dotenv_values(stream=StringIO(dotenv_text()))


def dotenv_text() -> str:
    """The content of ``.env``, or an empty text if the file is absent; raises `SettingsError`."""
    try:
        text = DOTENV.read_text(DOTENV_ENCODING)
    except FileNotFoundError as error:
        if DOTENV.is_symlink():
            raise SettingsError(f"{DOTENV}: a link to a file that does not exist") from error
        return ""
    except OSError as error:
        raise SettingsError(f"{DOTENV}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{DOTENV}: not UTF-8 text; save it as UTF-8") from error
    if "\0" in text:  # most likely UTF-16
        raise SettingsError(f"{DOTENV}: contains NUL bytes; save it as UTF-8 text")
    return text
