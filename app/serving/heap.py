"""Garbage collection without the objects of a loaded model."""

import gc


def keep_heap() -> None:
    """Exclude all present objects from garbage collection, and enable it.

    Otherwise every full collection would walk PyTorch and stop the service for a tenth of a second.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.enable()
