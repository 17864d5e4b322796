"""How many classes are answered where nobody asks, and ``--top-k`` of the commands."""

from app.settings import SettingsError

DEFAULT_TOP_K = 5


def check_top_k(asked: int | None, classes: float) -> int:
    """The number of classes that a command prints: by default 5, or all where there are fewer.

    Raises:
        SettingsError: ``asked`` is not from 1 to ``classes``.
    """
    top_k = int(min(DEFAULT_TOP_K, classes)) if asked is None else asked
    if not 1 <= top_k <= classes:
        raise SettingsError(f"--top-k={top_k}: must be from 1 to {classes}")
    return top_k
