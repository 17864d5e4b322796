"""Metrics of predictions, and of the reference that they are compared with."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from app.observability.metrics import Metrics
from app.serving.classifier import Figures
from model.drift import Figures as ModelFigures
from model.drift import make_reference, profile

from .conftest import INFO, FakeClassifier, running, starting, until
from .oip_messages import INFER, INFER_TENSOR, images, request_of, tensor
from .test_metrics import scrape

pytestmark = pytest.mark.anyio

MODEL = {"checkpoint": INFO.checkpoint_sha256[:12]}
LABELS = [f"class_{i}" for i in range(10)]
ADMIN = {"Authorization": "Bearer secret"}


def with_reference(classes: int, predicted: list[int]) -> dict[str, Any]:
    """The profile of a model whose reference has one image of each predicted class."""
    figures = [ModelFigures(i, 0.85, 0.25, 0.45, 1024) for i in predicted]
    labels = [f"class_{i}" for i in range(classes)]
    return profile(labels, make_reference(figures, classes))


def counts(read: Callable[..., float], name: str, *bounds: str) -> list[float]:
    """Images up to each bound of a histogram, and in all."""
    buckets = [read(f"{name}_bucket", **MODEL, le=bound) for bound in (*bounds, "+Inf")]
    assert buckets[-1] == read(f"{name}_count", **MODEL)
    return buckets


async def test_a_prediction_is_counted_in_each_distribution(classifier: FakeClassifier) -> None:
    async with running(classifier) as (client, _):
        for body in (b"3", b"3", b"9"):
            assert (await client.post("/predict?top_k=2", content=body)).status_code == 200
        read = await scrape(client)
    assert counts(read, "xcit_prediction_score", "0.8", "0.9") == [0, 3, 3]
    assert read("xcit_prediction_score_sum", **MODEL) == pytest.approx(2.7)
    assert counts(read, "xcit_prediction_entropy", "0.2", "0.3", "0.9") == [0, 2, 3, 3]
    assert counts(read, "xcit_image_brightness", "0.2", "0.3", "0.8", "0.9") == [0, 2, 2, 3, 3]
    assert counts(read, "xcit_image_pixels", "1024.0") == [3, 3], "an item's bytes are its pixels"
    by_class = {i: read("xcit_predicted_class_total", **MODEL, **{"class": i}) for i in LABELS}
    assert by_class == {**dict.fromkeys(LABELS, 0), "class_3": 2, "class_9": 1}


async def test_every_route_counts_each_classified_image_once(classifier: FakeClassifier) -> None:
    async with running(classifier) as (client, _):

        async def counted() -> float:
            return (await scrape(client))("xcit_prediction_score_count", **MODEL)

        form = [("file", b"1"), ("file", b"bad"), ("file", b"2")]
        for request, seen in (
            (client.post("/predict", content=b"1"), 1),
            (client.post("/predict", content=b"bad"), 1),
            (client.post("/predict", content=b"poison"), 1),
            (client.post("/predict/batch", files=form), 3),
            (client.post(INFER, **request_of(images(b"1", b"2"))), 5),
            (client.post(INFER_TENSOR, **request_of(tensor(*[1.0] * 24))), 7),
            (client.post("/explain", content=b"1"), 7),
            (client.get("/healthz"), 7),
        ):
            await request
            assert await counted() == seen


async def test_reference_is_exported_by_bucket(classifier: FakeClassifier) -> None:
    classifier.profile = with_reference(10, [0, 0, 7])
    async with running(classifier) as (client, _):
        read = await scrape(client)
    assert read("xcit_reference_images", **MODEL) == 3
    empty = {"above": "", "upto": "", "class": ""}

    def images_in(distribution: str, **labels: str) -> float:
        place = {**MODEL, "distribution": distribution, **empty, **labels}
        return read("xcit_reference_bucket_images", **place)

    assert images_in("score", above="0.8", upto="0.9") == 3
    assert images_in("score", above="-Inf", upto="0.1") == 0
    assert images_in("entropy", above="0.2", upto="0.3") == 3
    assert images_in("brightness", above="0.4", upto="0.5") == 3
    assert images_in("pixels", above="-Inf", upto="1024.0") == 3
    assert images_in("pixels", above="1.6777216e+07", upto="+Inf") == 0
    assert images_in("class", **{"class": "class_0"}) == 2
    assert images_in("class", **{"class": "class_7"}) == 1


async def test_bounds_of_reference_and_histograms_are_the_same_text() -> None:
    metrics = Metrics()
    metrics.show_model(with_reference(10, [0]), INFO)
    families = {family.name: family for family in metrics.registry.collect()}
    names = {"score": "prediction_score", "entropy": "prediction_entropy"}
    names |= {"brightness": "image_brightness", "pixels": "image_pixels"}
    for distribution, name in names.items():
        bounds = [
            sample.labels["le"]
            for sample in families[f"xcit_{name}"].samples
            if sample.name.endswith("_bucket")
        ]
        upto = [
            sample.labels["upto"]
            for sample in families["xcit_reference_bucket_images"].samples
            if sample.labels["distribution"] == distribution
        ]
        assert upto == [bound for bound in bounds if bound in upto]
        assert set(bounds) - set(upto) <= {"+Inf"}


async def test_without_a_reference_none_is_exported(classifier: FakeClassifier) -> None:
    async with running(classifier) as (client, _):
        text = (await client.get("/metrics")).text
    assert f'xcit_reference_images{{checkpoint="{MODEL["checkpoint"]}"}} 0.0' in text
    assert "xcit_reference_bucket_images{" not in text


async def test_classes_beyond_fifty_share_one_series(classifier: FakeClassifier) -> None:
    classifier.profile = with_reference(100_000, [*range(3, 53), *range(3, 53), 77])
    async with running(classifier) as (client, _):
        for body in (b"3", b"9", b"1", b"2"):
            await client.post("/predict", content=body)
        text = (await client.get("/metrics")).text
        read = await scrape(client)
    lines = [line for line in text.splitlines() if line.startswith("xcit_predicted_class_total{")]
    assert len(lines) == 51
    by_class = [
        read("xcit_predicted_class_total", **MODEL, **{"class": name})
        for name in ("class_3", "class_9", "other")
    ]
    assert by_class == [1, 1, 2]
    others = {"distribution": "class", "above": "", "upto": "", "class": "other"}
    assert read("xcit_reference_bucket_images", **MODEL, **others) == 1


async def test_many_classes_without_a_reference_are_not_counted(classifier: FakeClassifier) -> None:
    classifier.profile = profile([f"class_{i}" for i in range(1000)], None)
    async with running(classifier) as (client, _):
        await client.post("/predict", content=b"3")
        text = (await client.get("/metrics")).text
        read = await scrape(client)
    assert "xcit_predicted_class_total{" not in text
    assert read("xcit_prediction_score_count", **MODEL) == 1


async def test_each_model_is_counted_apart_and_only_the_new_one_has_a_reference() -> None:
    old, new = FakeClassifier(), FakeClassifier()
    old.profile = with_reference(10, [0])
    new.profile = with_reference(10, [0, 1])
    new.info = replace(INFO, checkpoint_sha256="1" * 64)
    loads = [old, new]
    async with starting(lambda: loads.pop(0), admin_token="secret") as (client, lifecycle):
        await until(lambda: lifecycle.ready)
        old.gate.clear()
        late = asyncio.create_task(client.post("/predict", content=b"3"))
        await until(lambda: len(old.batches) == 1)
        reload = asyncio.create_task(client.post("/admin/reload", headers=ADMIN))
        await until(lambda: new.warmed == 1)
        old.gate.set()
        assert (await late).status_code == (await reload).status_code == 200
        assert (await client.post("/predict", content=b"4")).status_code == 200
        read = await scrape(client)
    checkpoints = {"old": "0" * 12, "new": "1" * 12}
    seen = {
        name: read("xcit_prediction_score_count", checkpoint=digits)
        for name, digits in checkpoints.items()
    }
    assert seen == {"old": 1, "new": 1}
    shown = [read("xcit_reference_images", checkpoint=each) for each in checkpoints.values()]
    assert shown == [0, 2]


def test_counts_continue_after_a_reload_of_the_same_file() -> None:
    metrics = Metrics()
    found = with_reference(10, [0])
    figures = Figures(3, 0.9, 0.1, 0.5, None)
    for _ in range(2):
        metrics.show_model(found, INFO)
        metrics.predictions.count([(INFO.checkpoint_sha256, figures)])
    read = metrics.registry.get_sample_value
    assert read("xcit_prediction_score_count", MODEL) == 2
    assert read("xcit_image_pixels_count", MODEL) == 0, "a tensor has no file"


def test_only_the_latest_models_are_kept() -> None:
    metrics = Metrics()
    for number in range(5):
        info = replace(INFO, checkpoint_sha256=str(number) * 64)
        metrics.show_model(profile(LABELS, None), info)
    (family,) = (f for f in metrics.registry.collect() if f.name == "xcit_prediction_score")
    assert {sample.labels["checkpoint"][0] for sample in family.samples} == {"2", "3", "4"}
    gone = [("0" * 64, Figures(0, 1.0, 0.0, 0.5, 1))]
    metrics.predictions.count(gone)
