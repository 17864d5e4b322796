"""Python client for xcit-serve: send images, get their most likely classes."""

from xcit_client.asynchronous import AsyncClient
from xcit_client.errors import (
    ClientError,
    DeadlineExceeded,
    ImageRefused,
    InvalidOption,
    ServiceError,
    TimedOut,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
    UnreadableImage,
)
from xcit_client.results import Engine, Health, Model, Prediction, Row, ServedModel
from xcit_client.retries import NO_RETRIES, Retries
from xcit_client.sync import Client

__all__ = [
    "NO_RETRIES",
    "AsyncClient",
    "Client",
    "ClientError",
    "DeadlineExceeded",
    "Engine",
    "Health",
    "ImageRefused",
    "InvalidOption",
    "Model",
    "Prediction",
    "Retries",
    "Row",
    "ServedModel",
    "ServiceError",
    "TimedOut",
    "Unauthorized",
    "Unavailable",
    "UnexpectedAnswer",
    "Unreachable",
    "UnreadableImage",
]
