"""Traces, as a collector gets them: whose they are, what they say, and what they cost."""

import asyncio
import io
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import httpx
import pytest

from app.config.settings import SettingsError
from app.http.app import create_app
from app.observability import tracing
from app.observability.logs import JsonFormatter, TextFormatter
from app.observability.otel_environment import without_opentelemetry
from tests.servers import HANGS, Collector

from .conftest import FakeClassifier, make_settings, running, until

pytestmark = pytest.mark.anyio

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
UNSAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-00"}


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """OpenTelemetry's, none of which is set."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.fixture
def collector(variables: pytest.MonkeyPatch) -> Iterator[Collector]:
    """Has all spans once the service has stopped."""
    server = Collector()
    variables.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url)
    yield server
    server.close()


@pytest.fixture
def hanging(variables: pytest.MonkeyPatch) -> Iterator[Collector]:
    """Takes spans and does not answer; nobody waits long for the last of them."""
    server = Collector(hangs=True)
    variables.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url)
    variables.setattr(tracing, "FLUSH", 0.3)
    yield server
    server.close()


def durations(response: httpx.Response) -> dict[str, float]:
    """Seconds by phase, out of ``Server-Timing``."""
    entries = response.headers["server-timing"].split(", ")
    pairs = (entry.split(";dur=") for entry in entries)
    return {name: float(milliseconds) / 1e3 for name, milliseconds in pairs}


def trace_of(response: httpx.Response) -> tuple[str, str]:
    """Ids of trace and span, out of ``traceresponse``."""
    version, trace_id, span_id, flags = response.headers["traceresponse"].split("-")
    assert (version, len(flags)) == ("00", 2)
    return trace_id, span_id


async def test_a_request_is_a_span_with_one_for_each_phase(
    classifier: FakeClassifier, collector: Collector
) -> None:
    headers = {"X-Request-ID": "me", "User-Agent": "tests", "Host": "photos.example:8080"}
    began = time.time_ns()
    async with running(classifier, tracing=True) as (client, _):
        response = await client.post("/predict?top_k=2", content=b"3", headers=headers)
    ended = time.time_ns()
    span = collector.the("POST /predict")
    assert span.id == trace_of(response)
    assert (span.kind, span.parent, span.failed) == ("server", "", False)
    assert span.attributes == {
        "http.request.method": "POST",
        "http.route": "/predict",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "url.path": "/predict",
        "url.query": "top_k=2",
        "server.address": "photos.example",
        "server.port": 8080,
        "network.protocol.version": "1.1",
        "user_agent.original": "tests",
        "xcit.request_id": "me",
    }
    assert began <= span.started <= span.ended <= ended
    phases = collector.children(span)
    assert [phase.name for phase in phases] == [
        *("read", "queue", "preprocess", "queue", "inference")
    ]
    assert len(collector.spans) == 1 + 5 + 1  # and the batch
    assert [phase.kind for phase in phases] == ["internal"] * 5
    moments = [span.started, *(t for p in phases for t in (p.started, p.ended)), span.ended]
    assert moments == sorted(moments)


async def test_the_spans_agree_with_server_timing(collector: Collector) -> None:
    class Slow(FakeClassifier):
        def preprocess(self, image: object) -> bytes:
            time.sleep(0.03)
            return b"1"

    classifier = Slow()
    classifier.gate.clear()
    async with running(classifier, tracing=True) as (client, _):
        first = asyncio.create_task(client.post("/predict", content=b"1"))
        await until(lambda: len(classifier.batches) == 1)
        second = asyncio.create_task(client.post("/predict", content=b"1"))
        await asyncio.sleep(0.1)
        classifier.gate.set()
        responses = [await first, await second]
    for response in responses:
        told = durations(response)
        (span,) = (s for s in collector.named("POST /predict") if s.id == trace_of(response))
        sums = dict.fromkeys(told, 0.0)
        for phase in collector.children(span):
            sums[phase.name] += phase.seconds
        total = sums.pop("total") + told.pop("total")
        assert sums == pytest.approx(told, abs=1e-5)
        assert total <= span.seconds + 1e-5
    assert durations(responses[1])["queue"] > 0.05  # else it proves little


async def test_the_callers_trace_goes_on(classifier: FakeClassifier, collector: Collector) -> None:
    async with running(classifier, tracing=True) as (client, _):
        headers = {**SAMPLED, "tracestate": "vendor=1,other=2"}
        response = await client.post("/predict", content=b"1", headers=headers)
    span = collector.the("POST /predict")
    assert span.id == (TRACE, response.headers["traceresponse"].split("-")[2])
    assert response.headers["traceresponse"] == f"00-{TRACE}-{span.id[1]}-01"
    assert (span.parent, span.state) == (PARENT, "vendor=1,other=2")
    assert {child.id[0] for child in collector.children(span)} == {TRACE}


@pytest.mark.parametrize(
    "value",
    [
        "",
        "nonsense",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-01-more",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}-zz",
        "x" * 5000,
        "é",
    ],
)
async def test_a_traceparent_that_is_none_begins_a_new_trace(
    classifier: FakeClassifier, collector: Collector, value: str
) -> None:
    async with running(classifier, tracing=True) as (client, _):
        headers = {b"traceparent": value.encode()}
        response = await client.post("/predict", content=b"1", headers=headers)
    assert response.status_code == 200
    span = collector.the("POST /predict")
    assert span.parent == ""
    assert span.id == trace_of(response)
    assert span.id[0] not in (TRACE, "0" * 32)


async def test_two_traceparents_are_none_and_a_bad_tracestate_is_dropped(
    classifier: FakeClassifier, collector: Collector
) -> None:
    other = f"00-{'1' * 32}-{PARENT}-01"
    async with running(classifier, tracing=True) as (client, _):
        twice = [("traceparent", SAMPLED["traceparent"]), ("traceparent", other)]
        await client.get("/v2", headers=twice)
        bad = {**SAMPLED, "tracestate": "=,no state;"}
        await client.get("/v2", headers=bad)
        both = [*SAMPLED.items(), ("tracestate", "a=1"), ("tracestate", "b=2")]
        await client.get("/v2", headers=both)
    found = [(span.parent, span.state) for span in collector.named("GET /v2")]
    assert found == [("", ""), (PARENT, ""), (PARENT, "a=1,b=2")]


async def test_unsampled_requests_export_nothing(
    classifier: FakeClassifier, collector: Collector
) -> None:
    async with running(classifier, tracing=True) as (client, _):
        response = await client.post("/predict", content=b"1", headers=UNSAMPLED)
    assert trace_of(response)[0] == TRACE
    assert response.headers["traceresponse"].endswith("-00")
    assert not collector.asked.is_set()


@pytest.mark.parametrize(("sampler", "count"), [("always_off", 0), ("always_on", 1)])
async def test_the_sampler_is_the_one_that_the_environment_names(
    classifier: FakeClassifier,
    collector: Collector,
    variables: pytest.MonkeyPatch,
    sampler: str,
    count: int,
) -> None:
    variables.setenv("OTEL_TRACES_SAMPLER", sampler)
    headers = UNSAMPLED if count else SAMPLED
    async with running(classifier, tracing=True) as (client, _):
        await client.post("/predict", content=b"1", headers=headers)
    assert len(collector.named("POST /predict")) == len(collector.named("batch")) == count


async def test_a_batch_links_to_its_sampled_requests_and_they_to_it(
    classifier: FakeClassifier, collector: Collector, variables: pytest.MonkeyPatch
) -> None:
    variables.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")  # none of its own accord
    classifier.gate.clear()
    async with running(classifier, tracing=True) as (client, _):
        first = asyncio.create_task(client.post("/predict", content=b"0"))
        await until(lambda: len(classifier.batches) == 1)
        parents = [{"traceparent": f"00-{n * 32}-{PARENT}-01"} for n in "123"] + [UNSAMPLED]
        others = [
            asyncio.create_task(client.post("/predict", content=b"1", headers=headers))
            for headers in parents
        ]
        await asyncio.sleep(0.05)
        classifier.gate.set()
        await first
        responses = await asyncio.gather(*others)
    assert [len(batch) for batch in classifier.batches] == [1, 4]
    batch = collector.the("batch")
    assert batch.attributes == {
        "xcit.batch.number": 2,
        "xcit.batch.size": 4,
        "xcit.batch.padding": 0,
        "xcit.stream": 0,
    }
    assert (batch.kind, batch.parent, batch.failed) == ("internal", "", False)
    assert batch.links == {trace_of(response) for response in responses[:3]}
    assert batch.id[0] not in {trace_of(response)[0] for response in responses}
    inferences = collector.named("inference")
    assert len(inferences) == 3
    for span in inferences:
        assert span.links == {batch.id}
        assert span.attributes == {"xcit.batch.size": 4}
        assert abs(span.started - batch.started) < 1e6  # the same but for the clocks
        assert abs(span.ended - batch.ended) < 1e6


async def test_images_that_come_together_have_one_span_a_phase_and_link_to_every_batch(
    collector: Collector,
) -> None:
    classifier = FakeClassifier(max_batch_size=2)
    async with running(classifier, tracing=True) as (client, _):
        files = [("file", b"%d" % i) for i in range(5)]
        response = await client.post("/predict/batch", files=files)
    assert response.status_code == 200
    span = collector.the("POST /predict/batch")
    names = [phase.name for phase in collector.children(span)]
    assert sorted(names) == ["inference", "preprocess", "queue", "queue", "read"]
    batches = collector.named("batch")
    assert len(batches) == len(classifier.batches) >= 3
    assert collector.the("inference").links == {batch.id for batch in batches}
    assert all(batch.links == {span.id} for batch in batches)


async def test_a_defect_is_an_error_with_its_stack_in_request_and_batch(
    classifier: FakeClassifier, collector: Collector
) -> None:
    async with running(classifier, tracing=True) as (client, _):
        response = await client.post("/predict", content=b"poison")
    assert response.status_code == 500
    span, batch = collector.the("POST /predict"), collector.the("batch")
    assert (span.failed, batch.failed) == (True, True)
    assert span.attributes["error.type"] == "internal_error"
    assert batch.attributes["error.type"] == "RuntimeError"
    assert batch.links == {span.id}
    for events in (span.events, batch.events):
        (event,) = events
        assert (event["name"], event["exception.type"]) == ("exception", "RuntimeError")
        assert event["exception.message"] == "poison"
        assert "in predict" in event["exception.stacktrace"]


async def test_a_defect_of_one_image_among_others_is_kept(
    classifier: FakeClassifier, collector: Collector
) -> None:
    async with running(classifier, tracing=True) as (client, _):
        files = [("file", b"1"), ("file", b"poison")]
        response = await client.post("/predict/batch", files=files)
    assert response.status_code == 200
    span = collector.the("POST /predict/batch")
    assert [event["exception.message"] for event in span.events] == ["poison"]
    assert not span.failed


async def test_refusals_by_the_service_are_errors_and_of_the_client_none(
    classifier: FakeClassifier, collector: Collector
) -> None:
    async with running(classifier, tracing=True) as (client, lifecycle):
        await client.post("/predict", content=b"bad")
        await client.get("/nowhere")
        await client.request("BREW", "/coffee")
        lifecycle.drain()
        lifecycle.refuse()
        await client.post("/predict", content=b"1")
    wrong, refused = collector.named("POST /predict")
    assert wrong.attributes["http.response.status_code"] == 400
    assert wrong.attributes["xcit.rejection"] == "invalid_image"
    assert "error.type" not in wrong.attributes
    assert not wrong.failed
    assert refused.failed
    assert refused.attributes["error.type"] == "draining"
    assert refused.events == [
        {
            "name": "exception",
            "exception.type": "draining",
            "exception.message": "the service is draining",
        }
    ]
    nowhere, brew = collector.the("GET"), collector.the("HTTP")
    assert "http.route" not in nowhere.attributes
    assert nowhere.attributes["http.response.status_code"] == 404
    assert not nowhere.failed
    assert brew.attributes["http.request.method"] == "_OTHER"
    assert brew.attributes["http.request.method_original"] == "BREW"


async def test_a_request_that_the_server_cancels_is_an_error(
    classifier: FakeClassifier, collector: Collector
) -> None:
    """It is answered before the connection ends."""
    classifier.gate.clear()
    async with running(classifier, tracing=True) as (client, _):
        task = asyncio.create_task(client.post("/predict", content=b"1"))
        await until(lambda: len(classifier.batches) == 1)
        task.cancel()
        await asyncio.wait([task])
        classifier.gate.set()
    span = collector.the("POST /predict")
    assert (span.failed, span.attributes["error.type"]) == (True, "draining")
    assert span.attributes["http.response.status_code"] == 503


async def test_probes_and_scrapes_are_not_traced(
    classifier: FakeClassifier, collector: Collector
) -> None:
    async with running(classifier, tracing=True) as (client, _):
        for path in ("/livez", "/readyz", "/healthz", "/metrics", "/v2/health/live"):
            response = await client.get(path, headers=SAMPLED)
            assert "traceresponse" not in response.headers
    assert not collector.asked.is_set()


async def test_what_a_client_sends_takes_little_room(
    classifier: FakeClassifier, collector: Collector
) -> None:
    long = "x" * 5000
    async with running(classifier, tracing=True) as (client, _):
        await client.get(f"/{long}?{long}", headers={"User-Agent": long, "Host": "[bad"})
        await client.post("/predict", files={long: b"1"})
    span = collector.the("GET")
    assert [len(span.attributes[name]) for name in ("url.path", "url.query")] == [256, 256]
    assert len(span.attributes["user_agent.original"]) == 256
    assert "server.address" not in span.attributes
    assert len(collector.the("POST /predict").events[0]["exception.message"]) <= 256


@pytest.mark.parametrize(
    ("host", "address", "port"),
    [("a.b", "a.b", None), ("[::1]:8000", "::1", 8000), ("10.0.0.1:1", "10.0.0.1", 1)],
)
async def test_the_servers_address_is_the_one_that_the_client_used(
    classifier: FakeClassifier, collector: Collector, host: str, address: str, port: int | None
) -> None:
    async with running(classifier, tracing=True) as (client, _):
        await client.get("/v2", headers={"Host": host})
    found = collector.the("GET /v2").attributes
    assert (found["server.address"], found.get("server.port")) == (address, port)


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ({}, "xcit-serve"),
        ({"OTEL_SERVICE_NAME": "mine"}, "mine"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=theirs,zone=a"}, "theirs"),
    ],
)
async def test_the_service_has_a_name_and_the_environment_may_give_another(
    classifier: FakeClassifier,
    collector: Collector,
    variables: pytest.MonkeyPatch,
    variable: dict[str, str],
    name: str,
) -> None:
    for key, value in variable.items():
        variables.setenv(key, value)
    async with running(classifier, tracing=True) as (client, _):
        await client.post("/predict", content=b"1")
    assert {resource["service.name"] for resource in collector.resources} == {name}


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
async def test_the_log_lines_of_a_request_have_its_ids(
    classifier: FakeClassifier, collector: Collector, formatter: logging.Formatter
) -> None:
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(formatter)
    loggers = [logging.getLogger(name) for name in ("app.access", "app.http.middleware")]
    for logger in loggers:
        logger.addHandler(handler)
    logging.getLogger("app.access").setLevel(logging.INFO)
    try:
        async with running(classifier, tracing=True) as (client, _):
            response = await client.post("/predict", content=b"poison", headers=UNSAMPLED)
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        logging.getLogger("app.access").setLevel(logging.NOTSET)
    trace_id, span_id = trace_of(response)
    lines = [
        line for line in text.getvalue().splitlines() if response.headers["x-request-id"] in line
    ]
    assert len(lines) == 2  # the error and the request
    for line in lines:
        if isinstance(formatter, JsonFormatter):
            event = json.loads(line)
            assert (event["trace_id"], event["span_id"]) == (trace_id, span_id)
        else:
            assert f" trace_id={trace_id} span_id={span_id}" in line


async def test_histograms_have_exemplars_of_sampled_requests(
    classifier: FakeClassifier, collector: Collector
) -> None:
    async with running(classifier, tracing=True) as (client, _):
        openly = {"Accept": "application/openmetrics-text"}
        await client.post("/predict", content=b"1", headers=UNSAMPLED)
        assert "trace_id" not in (await client.get("/metrics", headers=openly)).text
        response = await client.post("/predict", content=b"1")
        lines = (await client.get("/metrics", headers=openly)).text.splitlines()
        plain = (await client.get("/metrics")).text
    trace_id, span_id = trace_of(response)
    exemplar = f'# {{span_id="{span_id}",trace_id="{trace_id}"}} '
    marked = [line for line in lines if exemplar in line]
    buckets = {line.partition("le=")[0].rstrip(",") for line in marked}
    assert buckets == {
        'xcit_request_duration_seconds_bucket{endpoint="/predict"',
        "xcit_phase_duration_seconds_bucket{",
    }
    assert len(marked) == 1 + 4
    assert "trace_id" not in plain


async def test_a_collector_that_hangs_costs_no_request_and_no_stop(
    classifier: FakeClassifier,
    hanging: Collector,
    variables: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    variables.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "20")
    variables.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")
    async with running(classifier, tracing=True) as (client, _):
        await client.post("/predict", content=b"1")
        await client.post("/predict", content=b"1")
        await asyncio.to_thread(hanging.asked.wait, 10)
        for _ in range(100):
            assert (await client.post("/predict", content=b"1")).status_code == 200
        assert not hanging.awake.is_set()
        stopping = time.monotonic()
    assert 0.25 < time.monotonic() - stopping < HANGS / 2
    assert "the last spans could not be sent within 0.3 s" in caplog.text
    assert caplog.text.count("Queue full") == 1


async def test_a_collector_that_is_gone_costs_a_line_in_the_log_now_and_then(
    classifier: FakeClassifier,
    collector: Collector,
    variables: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    collector.close()
    variables.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    variables.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.05")
    variables.setattr(tracing, "FLUSH", 0.3)
    async with running(classifier, tracing=True) as (client, _):
        for _ in range(10):
            assert (await client.post("/predict", content=b"1")).status_code == 200
            await asyncio.sleep(0.05)
    exporter = [r for r in caplog.records if "exporter" in r.name]
    assert len(exporter) == 1
    assert "export" in exporter[0].getMessage()


async def test_nothing_is_left_behind_by_a_service_that_stopped(
    classifier: FakeClassifier, collector: Collector
) -> None:
    for _ in range(2):
        async with running(classifier, tracing=True) as (client, _):
            await client.post("/predict", content=b"1")
    assert len(collector.named("POST /predict")) == 2
    assert not [f for name in tracing.CHATTY for f in logging.getLogger(name).filters]


async def test_export_may_be_left_out(
    classifier: FakeClassifier, collector: Collector, variables: pytest.MonkeyPatch
) -> None:
    variables.setenv("OTEL_TRACES_EXPORTER", "none")
    async with running(classifier, tracing=True) as (client, _):
        response = await client.post("/predict", content=b"1", headers=SAMPLED)
    assert trace_of(response)[0] == TRACE
    assert not collector.asked.is_set()


async def test_opentelemetrys_own_switch_is_obeyed(
    classifier: FakeClassifier, collector: Collector, variables: pytest.MonkeyPatch
) -> None:
    variables.setenv("OTEL_SDK_DISABLED", "true")
    async with running(classifier, tracing=True) as (client, _):
        response = await client.post("/predict", content=b"1")
        assert response.status_code == 200
        assert "traceresponse" not in response.headers
        await client.post("/predict", content=b"1", headers=SAMPLED)
    assert not collector.asked.is_set()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin", "must be none or otlp"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "must be http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc", "must be http/protobuf"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "must begin with http"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector", "must begin with http"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "max_queue_size must be a positive integer"),
        ("OTEL_BSP_SCHEDULE_DELAY", "1.5", "must be a whole number"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip", "must be deflate or gzip or none"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "must be a number"),
        ("OTEL_PROPAGATORS", "b3", "OTEL_PROPAGATORS=b3: not installed; available are baggage"),
        ("OTEL_PROPAGATORS", "tracecontext,b4", "OTEL_PROPAGATORS=b4: not installed"),
        ("OTEL_PYTHON_METER_PROVIDER", "mine", "must be default_meter_provider or"),
        ("OTEL_SPAN_LINK_COUNT_LIMIT", "many", "OTEL_SPAN_LINK_COUNT_LIMIT"),
        ("OTEL_TRACES_SAMPLER", "often", "must be always_off or always_on or"),
        ("OTEL_TRACES_SAMPLER_ARG", "half", "must be a number"),
    ],
)
async def test_a_variable_that_cannot_be_obeyed_is_told_at_start(
    variables: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    variables.setenv(name, value)
    with pytest.raises(SettingsError, match=message):
        create_app(make_settings(tracing=True), FakeClassifier)


async def test_without_the_extra_tracing_is_refused_and_says_what_is_missing(
    variables: pytest.MonkeyPatch,
) -> None:
    variables.delitem(sys.modules, "app.observability.tracing")
    variables.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(SettingsError, match=r"pip install 'xcit-serve\[tracing\]'"):
        create_app(make_settings(tracing=True), FakeClassifier)


@pytest.mark.parametrize(
    ("propagators", "goes_on"),
    [("tracecontext", True), ("baggage, tracecontext", True), ("baggage", False), ("none", False)],
)
async def test_the_callers_trace_is_read_in_the_formats_that_the_environment_names(
    classifier: FakeClassifier,
    collector: Collector,
    variables: pytest.MonkeyPatch,
    propagators: str,
    goes_on: bool,
) -> None:
    variables.setenv("OTEL_PROPAGATORS", propagators)
    async with running(classifier, tracing=True) as (client, _):
        response = await client.post("/predict", content=b"1", headers=SAMPLED)
    assert (trace_of(response)[0] == TRACE) is goes_on


async def test_a_propagator_that_does_not_load_is_one_line(variables: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("broken", "no_such_module:Propagator", "opentelemetry_propagator")
    installed = EntryPoints([broken])
    variables.setattr("app.observability.otel_environment.entry_points", lambda group: installed)
    variables.setenv("OTEL_PROPAGATORS", "broken")
    with pytest.raises(SettingsError, match=r"^OTEL_PROPAGATORS=broken: cannot be loaded: No mod"):
        create_app(make_settings(tracing=True), FakeClassifier)


def run(program: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=root,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_without_tracing_only_the_api_that_fastapi_imports_is_imported() -> None:
    done = run(
        "import sys; import fastapi;"
        "fastapis = set(sys.modules);"
        "from unittest.mock import MagicMock;"
        "sys.modules.update({'model': MagicMock(), 'model.images.preprocess': MagicMock()});"
        "from app.http.app import create_app; from app.config.settings import Settings;"
        "create_app(Settings(), object);"
        "parts = ('opentelemetry', 'google.', 'app.observability.tracing');"
        "print([name for name in set(sys.modules) - fastapis if name.startswith(parts)],"
        "'opentelemetry.sdk' in sys.modules)"
    )
    assert (done.stdout, done.stderr) == ("[] False\n", "")


def test_the_import_of_fastapi_does_not_see_opentelemetrys_variables() -> None:
    environ = {"OTEL_PROPAGATORS": "b3", "OTEL_PYTHON_CONTEXT": "x", "PATH": "/bin"}
    before = dict(environ)
    with without_opentelemetry(environ):
        assert environ == {"PATH": "/bin"}
    assert environ == before
