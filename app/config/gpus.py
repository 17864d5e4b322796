"""The number of GPUs that CUDA shows to this process, without PyTorch."""

import ctypes
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from typing import Any

CUDA_LIBRARY = "libcuda.so.1"
SUCCESS = 0


def visible_gpus(
    open_library: Callable[[str], Any] = ctypes.CDLL,
    torch_supports_cuda: Callable[[], bool] | None = None,
) -> int:
    """The number of GPUs that PyTorch can use; it follows ``CUDA_VISIBLE_DEVICES``.

    The driver is asked directly, since the import of PyTorch takes seconds.

    Args:
        open_library: loads a shared library, or raises `OSError`.
        torch_supports_cuda: by default, whether the installed PyTorch is built for CUDA.
    """
    supported = torch_supports_cuda or _torch_supports_cuda
    try:
        driver = open_library(CUDA_LIBRARY)
    except OSError:  # there is no driver
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != SUCCESS or driver.cuDeviceGetCount(ctypes.byref(count)) != SUCCESS:
        return 0
    return count.value if supported() else 0


def _torch_supports_cuda() -> bool:
    spec = find_spec("torch")  # does not import it
    if spec is None or spec.origin is None:
        return False
    version: dict[str, Any] = run_path(str(Path(spec.origin).with_name("version.py")))
    return version.get("cuda") is not None
