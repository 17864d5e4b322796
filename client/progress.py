"""A bar on stderr, for who waits for many answers."""

from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from tqdm import tqdm


def bar(items: object, *, show: bool) -> "tqdm[NoReturn]":
    """One that knows the end if the items have a length; it does nothing unless ``show``."""
    from tqdm import tqdm

    total = len(items) if hasattr(items, "__len__") else None
    return tqdm(total=total, unit="image", disable=not show)
