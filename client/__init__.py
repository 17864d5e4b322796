"""Clients of xcit-serve: images in, their most likely classes out. Needs httpx and no more."""

from client.asynchronous import AsyncClient
from client.errors import (
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
from client.results import Health, Model, Prediction, Row, ServedModel
from client.retries import NO_RETRIES, Retries
from client.sync import Client

__all__ = [
    "NO_RETRIES",
    "AsyncClient",
    "Client",
    "ClientError",
    "DeadlineExceeded",
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
