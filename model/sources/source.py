"""Resolving the name of a checkpoint to a file of weights."""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from model.errors import CheckpointError
from model.families.variants import VARIANTS, find_variant
from model.sources.directory import SHARD, SHARDED, WEIGHTS, choose_weights
from model.sources.hub import announced_sha256, download
from model.spec import check_text

HUB = "hf-hub:"
MAX_PATH = 4096
# other spellings of hf-hub:OWNER/NAME
WEB_ADDRESS = re.compile(
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<name>[^/?#]+/[^/?#]+)"
    r"(?:/(?:tree|resolve|blob)/(?P<revision>[^/?#]+))?.*"
)
MISSPELT = re.compile(
    r"(?:hf|hugging[-_ ]?face)[-_ ]?(?:hub)?\s*(?::|/)/*\s*(?P<name>[\w.-]+/[\w.-]+(?:@[\w./-]+)?)",
    re.IGNORECASE,
)
TIMM = re.compile(r"timm[:/]+(?P<name>[\w.-]+)", re.IGNORECASE)
REPOSITORY = re.compile(r"(?P<name>\w[\w.-]*/[\w.-]+(?:@[\w./-]+)?)")
NO_FILE = "cannot be read: No such file or directory"
ELSEWHERE = re.compile(r"[a-z][a-z0-9+]*://.*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Source:
    """A file of weights.

    Attributes:
        variant: the published variant's name, if it was requested by that name.
        sha256: the expected checksum, if it was downloaded.
    """

    path: Path
    variant: str | None = None
    sha256: str | None = None


def find_weights(checkpoint: str | Path) -> Source:
    """Find the weights of ``checkpoint``, downloading them if necessary.

    Args:
        checkpoint: a file; a directory with one, such as that of a training run; the name of a
            published variant, downloaded from timm's repository; or
            ``hf-hub:OWNER/NAME[@REVISION]``.

    Raises:
        CheckpointError: it is none of these, or cannot be read.
    """
    text = str(checkpoint)
    check_text("the checkpoint's path", text, MAX_PATH)
    try:
        return _find(text)
    except OSError as error:
        reason = error.strerror or "it cannot be opened"
        raise CheckpointError(f"{error.filename or text}: cannot be read: {reason}") from error


def _find(text: str) -> Source:
    if text.startswith(HUB) and "://" not in text:
        repository, _, revision = text.removeprefix(HUB).partition("@")
        return _from_hub(repository, revision or None)
    path = Path(text)
    if path.is_dir():
        return Source(choose_weights(path))
    if SHARD.fullmatch(path.name):
        raise CheckpointError(f"{text}: one of several shards: {SHARDED}")
    if path.exists():
        return Source(path)
    if variant := find_variant(text):
        return _from_hub(f"timm/{variant.name}", None)
    if text.startswith("xcit_") and path.suffix not in {".pth", ".pt", ".safetensors"}:
        close = ", ".join(difflib.get_close_matches(text, VARIANTS, n=3, cutoff=0.3))
        raise CheckpointError(
            f"{text}: neither a file nor a published variant; similar names: {close}"
        )
    raise CheckpointError(f"{text}: {_missing(text)}")


def _missing(text: str) -> str:
    """Why there is no such file, and what was probably meant."""
    if WEIGHTS.fullmatch(text) and not (WEB_ADDRESS.fullmatch(text) or ELSEWHERE.fullmatch(text)):
        return NO_FILE
    for pattern in (WEB_ADDRESS, MISSPELT, TIMM, REPOSITORY):
        if match := pattern.fullmatch(text.removeprefix(HUB)):
            name, revision = match["name"], match.groupdict().get("revision")
            name = name if "/" in name else f"timm/{name}"
            hint = f"{HUB}{name}" + (f"@{revision}" if revision else "")
            return f"no such file; for a Hugging Face repository, use {hint}"
    if text.lower().startswith("file:"):
        return "a URL; give only the path of the file"
    if ELSEWHERE.fullmatch(text):
        return "a URL, not a file; download it first"
    return NO_FILE


def _from_hub(repository: str, revision: str | None) -> Source:
    path = download(repository, revision)
    variant = find_variant(repository.rpartition("/")[2])
    return Source(path, variant.name if variant else None, announced_sha256(path))
