"""The number of GPUs that CUDA shows to this process, without PyTorch."""

import ctypes
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from typing import Any

CUDA_LIBRARY = "libcuda.so.1"
SUCCESS = 0


def torch_supports_cuda() -> bool:
    """Whether the installed PyTorch is built for CUDA."""
    spec = find_spec("torch")  # does not import it
    if spec is None or spec.origin is None:
        return False
    version: dict[str, Any] = run_path(str(Path(spec.origin).with_name("version.py")))
    return version.get("cuda") is not None


def visible_gpus(
    open_library: Callable[[str], Any] = ctypes.CDLL,
    supported: Callable[[], bool] = torch_supports_cuda,
) -> int:
    """The number of GPUs that PyTorch can use; it follows ``CUDA_VISIBLE_DEVICES``.

    The driver is asked directly, since the import of PyTorch takes seconds.

    Args:
        open_library: loads a shared library, or raises `OSError`.
        supported: whether PyTorch can use them.
    """
    try:
        driver = open_library(CUDA_LIBRARY)
    except OSError:  # the driver is not installed
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != SUCCESS or driver.cuDeviceGetCount(ctypes.byref(count)) != SUCCESS:
        return 0
    return count.value if supported() else 0
