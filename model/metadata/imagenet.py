"""The thousand classes of ImageNet-1k, in the order of every published head."""

import re
from functools import cache
from pathlib import Path

LABELS = Path(__file__).parent / "imagenet-1k.tsv"
SYNSET = re.compile(r"n\d{8}")


@cache
def imagenet_labels() -> tuple[tuple[str, str], ...]:
    """The WordNet id (synset) and the readable name of each class of ImageNet-1k."""
    lines = LABELS.read_text(encoding="utf-8").splitlines()
    return tuple((synset, name) for synset, _, name in (line.partition("\t") for line in lines))
