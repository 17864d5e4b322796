"""How a model was trained, from the arguments that training scripts store with it.

timm's ``train.py`` writes its arguments into each checkpoint and into ``args.yaml`` next to it. Its
evaluation, and therefore its reported accuracy, used the preprocessing in these arguments. The
script of the authors of XCiT stores its own arguments in the same place.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from model.errors import CheckpointError
from model.metadata.sidecar import find_next_to, read_text
from model.metadata.timm_config import TimmConfig, parse_settings, without_nulls
from model.weights.foreign import Foreign

ARGS = "args.yaml"
MAX_YAML = 64 * 2**10  # characters, which take half a second to parse
# prefixes that timm puts before a model's name in repositories and directories
REPOSITORIES = ("hf-hub:", "hf_hub:", "local-dir:")
# the authors resize images to 256 for a crop of 224, unless the crop is full
AUTHORS_CROP = 224 / 256


class _Loader(yaml.SafeLoader):
    """Loads plain values without merge keys, which could expand a few lines into millions."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Keep merge keys, so that the constructor rejects them."""


def read_args_file(checkpoint: Path) -> TimmConfig | None:
    """The ``args.yaml`` next to ``checkpoint``; ``None`` if there is none for an XCiT.

    Raises:
        CheckpointError: it cannot be read, or requires unsupported features.
    """
    path = find_next_to(checkpoint, ARGS)
    if not path:
        return None
    text = read_text(path, checkpoint)
    if len(text) > MAX_YAML:
        raise CheckpointError(
            f"{path}: over {MAX_YAML:,} characters; expected the arguments of timm's train.py"
        )
    try:
        document = yaml.load(text, _Loader)  # noqa: S506, a safe loader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise CheckpointError(f"{path}: not YAML of plain values") from error
    return _parse(str(path), without_nulls(path, document))


def read_saved_args(path: Path, root: Mapping[str, Any]) -> TimmConfig | None:
    """The arguments in the outermost dictionary of a checkpoint; ``None`` if not for an XCiT.

    Args:
        root: see `model.weights.container.Contents`.
    """
    args = root.get("args")
    if isinstance(args, Foreign):
        args = args.state
    found = dict(args) if isinstance(args, dict) else {}
    if isinstance(arch := root.get("arch"), str):
        found.setdefault("model", arch)
    return _parse(f"args in {path.name}", without_nulls(path, found))


def _parse(origin: str, args: Mapping[str, Any]) -> TimmConfig | None:
    args = {name: value for name, value in args.items() if value != ""}
    named = args.get("model")
    named = named if isinstance(named, str) else ""
    model = named.rpartition("/")[2]
    if not (model.startswith("xcit_") or named.startswith(REPOSITORIES)):
        return None
    document: dict[str, Any] = {
        name: args[name]
        for name in ("interpolation", "crop_pct", "crop_mode", "input_size", "img_size")
        if name in args
    }
    if "input_size" in document:
        document.pop("img_size", None)
    if "full_crop" in args and "crop_pct" not in args:
        document["crop_pct"] = 1.0 if args["full_crop"] else AUTHORS_CROP
    for name in ("mean", "std"):
        if isinstance(channels := args.get(name), list | tuple):
            document[name] = channels * 3 if len(channels) == 1 else channels
    arguments = {**document, **without_nulls(origin, args.get("model_kwargs"))}
    for name, option in (("in_chans", "in_chans"), ("gp", "global_pool")):
        if name in args:
            arguments[option] = args[name]
    config = parse_settings(origin, model, document, arguments, {})
    classes = args.get("num_classes")
    return config if type(classes) is not int else _with_classes(config, classes)


def _with_classes(config: TimmConfig, classes: int) -> TimmConfig:
    return TimmConfig(
        config.origin, config.name, config.hyperparameters, config.preprocess, classes=classes
    )
