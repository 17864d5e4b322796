"""The service behind Ray Serve: one replica is one engine with its queue and its HTTP routes.

    applications:
      - import_path: app.ray:build
        args: {checkpoint: xcit_small_12_p16_224, num_cpus: 4}

Needs the extra ``ray``. In this folder, ``import ray`` is the library: imports are absolute.
"""

from app.ray.answers import BatchAnswer, ImageAnswer, ImageError, ImageResult, ModelName, Row
from app.ray.application import build
from app.ray.arguments import Arguments, UserConfig

__all__ = [
    "Arguments",
    "BatchAnswer",
    "ImageAnswer",
    "ImageError",
    "ImageResult",
    "ModelName",
    "Row",
    "UserConfig",
    "build",
]
