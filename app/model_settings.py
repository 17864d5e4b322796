"""What the settings mean for the model: what they override, and how it is to be run."""

from pathlib import Path

import model
from app.settings import Settings


def overrides(settings: Settings) -> model.Overrides:
    """What the settings say about a checkpoint, which wins over what it says itself."""
    return model.Overrides(
        labels=settings.labels,
        image_size=settings.image_size,
        preprocess=settings.preprocess,
        hyperparameters=settings.hyperparameters,
    )


def backend_options(
    settings: Settings, cores: int, *, streams: int | None = None, serving: bool = False
) -> model.BackendOptions:
    """The backend that the settings name; ``streams`` wins over theirs."""
    return model.BackendOptions(
        backend=settings.backend,
        device=settings.device,
        precision=settings.precision,
        cores=cores,
        streams=streams or settings.streams,
        serving=serving,
        cache_dir=settings.cache_dir,
        compile=settings.compile,
    )


def checkpoint_path(settings: Settings) -> str | Path:
    """The checkpoint that the settings name, by default the bundled one."""
    return settings.checkpoint or model.BUNDLED_CHECKPOINT
