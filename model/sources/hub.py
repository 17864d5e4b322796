"""Weights from a Hugging Face repository, through the hub's own client: cached and resumable.

The client reads its own settings: ``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HUB_OFFLINE``, ``HF_HOME``.
"""

import logging
import re
from pathlib import Path

from model.errors import CheckpointError, show
from model.sources.directory import SHARDED

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
CONFIG = "config.json"

ATTEMPTS = 5

NAME = re.compile(r"[\w.-]+/[\w.-]+")
NOT_A_NAME = "not a repository id; expected hf-hub:OWNER/NAME or hf-hub:OWNER/NAME@REVISION"

_SHA256 = re.compile(r"[0-9a-f]{64}")

logger = logging.getLogger(__name__)


def download(repository: str, revision: str | None) -> Path:
    """Download the weight file of ``OWNER/NAME``, and timm's config, into the cache.

    Raises:
        CheckpointError: why the file cannot be downloaded, and what to do about it.
    """
    if not NAME.fullmatch(repository):
        raise CheckpointError(f"hf-hub:{repository}: {NOT_A_NAME}")
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
        from requests.exceptions import ChunkedEncodingError
    except ImportError as error:
        raise CheckpointError(
            f"hf-hub:{repository}: requires huggingface_hub: pip install 'xcit-serve[hub]'"
        ) from error
    # It logs retries as Python objects; the final error says the same in one line.
    logging.getLogger("huggingface_hub.utils._http").setLevel(logging.ERROR)

    def fetch(name: str) -> Path | None:
        """The file, or ``None`` if the repository has no file of that name."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return Path(hf_hub_download(repository, name, revision=revision))
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError:
                return None
            except ChunkedEncodingError as error:  # the next attempt resumes the download
                if attempt == ATTEMPTS:
                    raise
                logger.warning("hf-hub:%s: %s: download interrupted: %s", repository, name, error)
        raise AssertionError

    try:
        fetch(CONFIG)
        found = next(filter(None, map(fetch, WEIGHTS)), None)
        divided = not found and any(map(fetch, INDEXES))
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(_explain(repository, revision, error)) from error
    if found is None:
        missing = f"the repository has no weight file; expected {' or '.join(WEIGHTS)}"
        reason = SHARDED if divided else missing
        raise CheckpointError(f"hf-hub:{repository}: {reason}")
    return found


def announced_sha256(path: Path) -> str | None:
    """The checksum that the hub gave for a file in its cache, if it gave one.

    The cache stores large files under their checksum.
    """
    name = path.resolve().name
    return name if path.is_symlink() and _SHA256.fullmatch(name) else None


def _explain(repository: str, revision: str | None, error: Exception) -> str:
    from huggingface_hub import constants, errors

    where = f"hf-hub:{repository}" + (f"@{revision}" if revision else "")
    match error:
        case errors.GatedRepoError():
            reason = (
                "gated: accept its terms on the hub, and set HF_TOKEN to a token of your account"
            )
        case errors.RevisionNotFoundError():
            reason = f"no revision {show(revision)}"
        case errors.RepositoryNotFoundError():
            reason = "no such repository, or a private one: check the name, or set HF_TOKEN"
        case errors.HFValidationError():
            reason = NOT_A_NAME
        case errors.LocalEntryNotFoundError() if constants.HF_HUB_OFFLINE:
            reason = "not in the cache, and HF_HUB_OFFLINE forbids a download"
        case errors.LocalEntryNotFoundError():
            reason = f"not in the cache, and {constants.ENDPOINT} cannot be reached"
        case errors.HfHubHTTPError() if error.response is not None:
            reason = f"{constants.ENDPOINT} answered with status {error.response.status_code}"
        case OSError() if error.strerror:
            reason = f"{error.strerror}: {error.filename or constants.HF_HOME}"
        case _:
            reason = " ".join(str(error).split())
    return f"{where}: {reason}"
