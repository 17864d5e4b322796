"""Whole runs of scoring on a real Ray cluster, which starts two dozen processes."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from app.loading import load_for_scoring
from app.scoring.output import open_output
from app.scoring.run import RunOptions, run
from app.scoring.sources import SourceOptions, open_source
from benchmarks.ray_serve import started_ray
from tests.app.conftest import make_settings
from tests.app.scoring.runs import Killed, Watching, rows
from tests.server_process import PHOTO

from .clusters import CORES
from .library import cluster

pytestmark = pytest.mark.slow

SETTINGS = {"backend": "torch", "precision": "float32", "max_batch_size": 4, "streams": 1}


def score(folder: Path, out: Path, progress: Watching, address: str | None) -> list[dict[str, Any]]:
    """The rows of a run on the cluster; without an address, in this process."""
    settings = make_settings(**SETTINGS)
    options = RunOptions(top_k=lambda classes: 3, embeddings=False, shard_size=40)
    source = open_source([str(folder)], SourceOptions(max_bytes=settings.max_body_bytes))
    load = partial(load_for_scoring, embeds=False)
    with open_output(out) as output:
        if address:
            cluster.run_on_cluster(address, load, source, output, options, settings, progress)
        else:
            here = partial(load, settings, 1)
            asyncio.run(run(here, source, output, options, settings, progress))
    return rows(out)


def test_interrupted_scoring_on_the_cluster_resumes_and_gives_the_rows_of_this_machine(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(300):
        whole = number % 50 != 7
        (folder / f"{number:03}.jpg").write_bytes(PHOTO if whole else PHOTO[:200])
    out = tmp_path / "cluster"
    resumed = Watching()
    with started_ray(CORES):
        with pytest.raises(Killed):
            score(folder, out, Watching(100), "auto")
        found = score(folder, out, resumed, "auto")
    assert resumed.started_with == 80
    assert resumed.done == 300 - 80
    assert found == score(folder, tmp_path / "here", Watching(), None)
    assert sum(row["error_kind"] is not None for row in found) == 6
