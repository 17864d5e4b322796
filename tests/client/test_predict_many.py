"""``predict_many``: errors, memory, reading ahead and progress."""

from pathlib import Path

import httpx
import pytest
from xcit_client import (
    AsyncClient,
    Client,
    ClientError,
    ImageRefused,
    InvalidOption,
    Prediction,
    TimedOut,
    UnreadableImage,
)
from xcit_client.images import ImageLike

from tests.app.conftest import FakeClassifier

from .conftest import HASTY, Script, Turn, countdown, good, problem
from .served import served

pytestmark = pytest.mark.anyio


async def test_one_failing_image_does_not_end_the_rest(
    classifier: FakeClassifier, tmp_path: Path
) -> None:
    (tmp_path / "7").write_bytes(b"7")
    images: list[ImageLike] = [b"1", b"bad", tmp_path / "absent", tmp_path / "7", b"2"]
    async with served(classifier) as client:
        outcomes = [outcome async for outcome in client.predict_many(images, top_k=1)]
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [Prediction, ImageRefused, UnreadableImage, Prediction, Prediction]
    best = [o.best.class_id for o in outcomes if isinstance(o, Prediction)]
    assert best == [1, 7, 2]


def test_one_failing_image_does_not_end_the_rest_in_threads() -> None:
    turns: list[Turn] = [problem(400, "invalid-image"), good(), httpx.ReadTimeout(""), good()]
    with Client("http://x", retries=HASTY, transport=Script(*turns)) as client:
        outcomes = [*client.predict_many([b"3"] * 4, concurrency=1)]
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [ImageRefused, Prediction, TimedOut, Prediction]


async def test_error_in_predict_many_does_not_keep_the_image_alive() -> None:
    turns: list[Turn] = [problem(400, "invalid-image"), httpx.ReadTimeout("")]
    with Client("http://x", transport=Script(*turns)) as client:
        outcomes = [*client.predict_many([b"3", b"4"], concurrency=1)]
    async with AsyncClient("http://x", transport=Script(*turns)) as other:
        outcomes += [outcome async for outcome in other.predict_many([b"3", b"4"], concurrency=1)]
    assert len(outcomes) == 4
    for error in outcomes:
        assert isinstance(error, ClientError)
        assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)


async def test_files_are_read_shortly_before_they_are_sent() -> None:
    taken: list[str] = []
    with Client("http://x", transport=Script(good())) as client:
        outcomes = client.predict_many(countdown(map(str, range(100)), taken), concurrency=2)
        assert isinstance(next(outcomes), Prediction)
        outcomes.close()
    assert len(taken) <= 5


async def test_predict_many_requires_a_positive_concurrency() -> None:
    with Client("http://x") as client, pytest.raises(InvalidOption, match="concurrency is 0"):
        client.predict_many([], concurrency=0)
    async with AsyncClient("http://x") as other:
        with pytest.raises(InvalidOption, match="concurrency is -1"):
            other.predict_many([], concurrency=-1)


async def test_progress_bar_is_drawn_only_if_requested(capsys: pytest.CaptureFixture[str]) -> None:
    with Client("http://x", transport=Script(good())) as client:
        assert len([*client.predict_many([b"3"] * 12)]) == 12
        assert capsys.readouterr().err == ""
        assert len([*client.predict_many([b"3"] * 12, progress=True)]) == 12
    assert "12/12" in capsys.readouterr().err
    async with AsyncClient("http://x", transport=Script(good())) as other:
        images = iter([b"3"] * 7)
        assert len([outcome async for outcome in other.predict_many(images, progress=True)]) == 7
    assert "7image" in capsys.readouterr().err
