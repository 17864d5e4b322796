"""XCiT image classifiers: checkpoints, preprocessing and inference. Knows nothing of HTTP."""

from pathlib import Path

from model.backends.base import BackendOptions
from model.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from model.classifier import Classifier, load_classifier
from model.description import Overrides
from model.errors import (
    CheckpointError,
    DeviceError,
    ImageError,
    ImageTooLarge,
    InvalidImage,
    InvalidTensor,
    ModelError,
    OutOfMemory,
    UnsupportedImage,
)
from model.evaluate import Report, evaluate
from model.prediction import Classification, Prediction
from model.saliency import Views, load_explainer
from model.spec import ModelSpec, PreprocessSpec

BUNDLED_CHECKPOINT = Path(__file__).parent / "checkpoints" / "xcit-cifar10.safetensors"

__all__ = [
    "BUNDLED_CHECKPOINT",
    "BackendOptions",
    "Checkpoint",
    "CheckpointError",
    "Classification",
    "Classifier",
    "DeviceError",
    "ImageError",
    "ImageTooLarge",
    "InvalidImage",
    "InvalidTensor",
    "ModelError",
    "ModelSpec",
    "OutOfMemory",
    "Overrides",
    "Prediction",
    "PreprocessSpec",
    "Report",
    "UnsupportedImage",
    "Views",
    "evaluate",
    "load_classifier",
    "load_explainer",
    "read_checkpoint",
    "write_checkpoint",
]
