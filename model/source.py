"""From what a user calls a checkpoint to a file of weights."""

import difflib
from dataclasses import dataclass
from pathlib import Path

from model.errors import CheckpointError
from model.hub import WEIGHTS, announced_sha256, download
from model.variants import VARIANTS, find_variant

HUB = "hf-hub:"


@dataclass(frozen=True, slots=True)
class Source:
    """A file of weights.

    Attributes:
        variant: the name of the published variant that it was asked for by.
        sha256: the checksum that came with it, for what was downloaded.
    """

    path: Path
    variant: str | None = None
    sha256: str | None = None


def find_weights(checkpoint: str | Path) -> Source:
    """Where the weights of ``checkpoint`` are; downloaded first if they are elsewhere.

    Args:
        checkpoint: a file, or a directory with ``model.safetensors``; the name of a published
            variant, which timm's repositories hold; or ``hf-hub:OWNER/NAME[@REVISION]``.

    Raises:
        CheckpointError: it is none of these, or cannot be had.
    """
    text = str(checkpoint)
    if text.startswith(HUB):
        repository, _, revision = text.removeprefix(HUB).partition("@")
        return _from_hub(repository, revision or None)
    path = Path(checkpoint)
    if path.is_dir():
        return Source(_in_directory(path))
    if (
        path.exists()
        or not text.startswith("xcit_")
        or path.suffix in {".pth", ".pt", ".safetensors"}
    ):
        return Source(path)
    if variant := find_variant(text):
        return _from_hub(f"timm/{variant.name}", None)
    close = ", ".join(difflib.get_close_matches(text, VARIANTS, n=3, cutoff=0.3))
    raise CheckpointError(f"{text}: neither a file nor a published variant; close are {close}")


def _from_hub(repository: str, revision: str | None) -> Source:
    path = download(repository, revision)
    variant = find_variant(repository.rpartition("/")[2])
    return Source(path, variant.name if variant else None, announced_sha256(path))


def _in_directory(directory: Path) -> Path:
    for name in WEIGHTS:
        if (directory / name).is_file():
            return directory / name
    raise CheckpointError(f"{directory}: a directory without {' or '.join(WEIGHTS)}")
