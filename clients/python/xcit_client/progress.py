"""A progress bar on stderr, drawn by the optional dependency tqdm."""

from typing import TYPE_CHECKING, NoReturn

from xcit_client.errors import InvalidOption

if TYPE_CHECKING:
    from tqdm import tqdm


class NoBar:
    """Stands in for a progress bar that is not shown."""

    def __enter__(self) -> "NoBar":
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self) -> None: ...


def check_progress(show: bool) -> None:  # noqa: FBT001 - the caller's flag
    """Raises `InvalidOption` if a bar is wanted and tqdm is not installed."""
    if show:
        try:
            import tqdm  # noqa: F401
        except ImportError as error:
            raise InvalidOption(
                "progress=True needs tqdm; install it with: pip install 'xcit-client[progress]'"
            ) from error


def progress_bar(items: object, *, show: bool) -> "tqdm[NoReturn] | NoBar":
    """A bar over ``items``, with a total if they have a length."""
    if not show:
        return NoBar()
    from tqdm import tqdm

    total = len(items) if hasattr(items, "__len__") else None
    return tqdm(total=total, unit="image")
