"""API keys, the admin token, and security headers."""

from pathlib import Path

import pytest

from app.config.settings import SettingsError
from app.http.api_keys import ApiKeys, KeysError, new_key
from app.serving.errors import StartupError, Unauthorized

from .conftest import FakeClassifier, running, starting, until
from .messages import problem

pytestmark = pytest.mark.anyio


@pytest.fixture
def alice() -> tuple[str, str]:
    """An API key, and its line in the key file."""
    return new_key("alice")


@pytest.fixture
def keys_file(tmp_path: Path, alice: tuple[str, str]) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"# ours\n\n{new_key('bob')[1]}\n{alice[1]}\n")
    return path


def test_only_hashes_of_keys_are_stored(keys_file: Path, alice: tuple[str, str]) -> None:
    keys = ApiKeys(keys_file)
    assert alice[0] not in keys_file.read_text()
    assert keys.name_of({"authorization": f"Bearer {alice[0]}"}) == "alice"
    assert keys.name_of({"authorization": f"bearer  {alice[0]}"}) == "alice"
    assert keys.name_of({"x-api-key": alice[0]}) == "alice"


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "API key required"),
        ({"authorization": "Basic YTpi"}, "API key required"),
        ({"authorization": "Bearer "}, "API key required"),
        ({"authorization": "Bearer guess"}, "invalid API key"),
        ({"x-api-key": "é"}, "invalid API key"),
    ],
)
def test_missing_and_unknown_keys_are_refused(
    keys_file: Path, headers: dict[str, str], message: str
) -> None:
    with pytest.raises(Unauthorized, match=message):
        ApiKeys(keys_file).name_of(headers)


def test_hash_is_not_accepted_as_key(keys_file: Path, alice: tuple[str, str]) -> None:
    with pytest.raises(Unauthorized):
        ApiKeys(keys_file).name_of({"x-api-key": alice[1].partition(":")[2]})


def test_rereading_removes_keys_and_an_invalid_file_changes_nothing(
    keys_file: Path, alice: tuple[str, str]
) -> None:
    keys = ApiKeys(keys_file)
    keys_file.write_text("nonsense\n")
    with pytest.raises(KeysError, match="line 1: must be NAME:SHA-256"):
        keys.read_again()
    assert keys.name_of({"x-api-key": alice[0]}) == "alice"
    keys_file.write_text(new_key("bob")[1])
    activate = keys.read_again()
    assert keys.name_of({"x-api-key": alice[0]}) == "alice", "nothing is activated yet"
    activate()
    with pytest.raises(Unauthorized):
        keys.name_of({"x-api-key": alice[0]})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "contains no key"),
        ("# alice\n", "contains no key"),
        ("alice:123\n", "line 1: must be"),
        ("al ice:" + "0" * 64, "line 1: must be"),
        ("a:" + "0" * 64 + "\na:" + "1" * 64, "line 2: duplicate name a"),
        (f"a:{'0' * 64}\nb:{'0' * 64}", "line 2: b has the key of a; use a different key"),
    ],
)
def test_invalid_key_file_is_reported(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "keys"
    path.write_text(content)
    with pytest.raises(KeysError, match=message):
        ApiKeys(path)
    with pytest.raises(SettingsError, match=r"nowhere: cannot be read: No such file or directory$"):
        ApiKeys(tmp_path / "nowhere")
    path.write_bytes(b"\xff")
    with pytest.raises(SettingsError, match=r"cannot be read as UTF-8 text$"):
        ApiKeys(path)


def test_key_name_must_be_one_word() -> None:
    with pytest.raises(KeysError, match="invalid name"):
        new_key("a:b")


def test_keys_do_not_begin_with_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter(["-abc", "--abc", "abc"])
    monkeypatch.setattr("secrets.token_urlsafe", lambda size: next(drawn))
    assert new_key("alice")[0] == "abc"


async def test_predict_requires_a_key_and_probes_do_not(
    classifier: FakeClassifier,
    keys_file: Path,
    alice: tuple[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    choices = {"api_keys_file": keys_file, "metrics_need_key": False}
    async with running(classifier, **choices) as (client, _):
        refused = await client.post("/predict", content=b"1")
        assert "API key required" in problem(refused, 401, "unauthorized")
        assert refused.headers["www-authenticate"] == "Bearer"
        refused = await client.post("/predict", content=b"1", headers={"X-API-Key": "guess"})
        assert "guess" not in problem(refused, 401, "unauthorized")
        assert classifier.batches == []

        allowed = {"Authorization": f"Bearer {alice[0]}"}
        assert (await client.post("/predict", content=b"1", headers=allowed)).is_success
        for path in ("/livez", "/readyz", "/healthz", "/openapi.json"):
            assert (await client.get(path)).is_success, path
        metrics = (await client.get("/metrics")).text
        scheme = (await client.get("/openapi.json")).json()
    assert 'xcit_client_requests_total{client="alice",code="200"} 1.0' in metrics
    assert 'xcit_rejected_total{reason="unauthorized"} 2.0' in metrics
    (line,) = (record for record in caplog.records if getattr(record, "fields", {}).get("client"))
    assert line.fields["client"] == "alice"  # type: ignore[attr-defined]
    assert alice[0] not in caplog.text
    assert scheme["paths"]["/predict"]["post"]["security"] == [{"HTTPBearer": []}]
    assert "security" not in scheme["paths"]["/metrics"]["get"]


async def test_metrics_require_a_key_if_keys_are_configured(
    classifier: FakeClassifier, keys_file: Path, alice: tuple[str, str]
) -> None:
    async with running(classifier, api_keys_file=keys_file) as (client, _):
        refused = await client.get("/metrics")
        problem(refused, 401, "unauthorized")
        assert "alice" not in refused.text
        assert (await client.get("/metrics", headers={"X-API-Key": alice[0]})).is_success
        scheme = (await client.get("/openapi.json")).json()["paths"]["/metrics"]["get"]
        assert scheme["security"] == [{"HTTPBearer": []}]
    async with running(classifier) as (client, _):
        assert (await client.get("/metrics")).is_success


async def test_admin_routes_do_not_exist_without_an_admin_token(
    classifier: FakeClassifier,
) -> None:
    async with running(classifier) as (client, _):
        problem(await client.post("/admin/reload"), 404, "not-found")
        assert "/admin/reload" not in (await client.get("/openapi.json")).json()["paths"]


async def test_reload_replaces_model_and_keys(
    keys_file: Path, alice: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    async with running(FakeClassifier(), api_keys_file=keys_file, admin_token="secret") as (
        client,
        _,
    ):
        for wrong in ({}, {"Authorization": "Bearer guess"}, {"X-API-Key": alice[0]}):
            problem(await client.post("/admin/reload", headers=wrong), 401, "unauthorized")
        admin = {"Authorization": "Bearer secret"}
        new_bob, line = new_key("bob")
        keys_file.write_text(line)
        response = await client.post("/admin/reload", headers=admin)
        assert response.json()["name"] == "fake"
        refused = await client.post("/predict", content=b"1", headers={"X-API-Key": alice[0]})
        problem(refused, 401, "unauthorized")
        keys_file.write_text("nonsense")
        response = await client.post("/admin/reload", headers=admin)
        assert "the keys and the model are unchanged" in problem(response, 422, "reload-failed")
        assert "line 1: must be NAME:SHA-256" in caplog.text
        bob = {"X-API-Key": new_bob}
        assert "\nxcit_reload_failed 1.0\n" in (await client.get("/metrics", headers=bob)).text


async def test_answers_have_security_headers(classifier: FakeClassifier) -> None:
    async with running(classifier) as (client, _):
        for response in (
            await client.get("/docs"),
            await client.post("/predict", content=b"1"),
            await client.get("/nowhere"),
        ):
            assert response.headers["x-content-type-options"] == "nosniff"
            assert "default-src 'none'" in response.headers["content-security-policy"]
            assert "frame-ancestors 'none'" in response.headers["content-security-policy"]
        assert "script-src" not in response.headers["content-security-policy"]


async def test_failed_reload_keeps_the_served_model() -> None:
    fine = FakeClassifier()
    loads = [fine]

    def load() -> FakeClassifier:
        if not loads:
            raise StartupError("weights.pt: neither a safetensors nor a PyTorch file")
        return loads.pop()

    async with starting(load, admin_token="secret") as (client, lifecycle):
        await until(lambda: lifecycle.ready)
        admin = {"Authorization": "Bearer secret"}
        response = await client.post("/admin/reload", headers=admin)
        detail = problem(response, 422, "reload-failed")
        assert detail == (
            "weights.pt: neither a safetensors nor a PyTorch file; fake 3 is still served"
        )
        assert (await client.post("/predict", content=b"3")).is_success


async def test_reload_measures_streams_and_batch_sizes_again() -> None:
    loads = [FakeClassifier(streams=2, max_batch_size=8), FakeClassifier(max_batch_size=2)]
    second = loads[0]
    async with starting(loads.pop, admin_token="secret") as (client, lifecycle):
        await until(lambda: lifecycle.ready)
        served = (await client.get("/healthz")).json()["model"]
        assert (served["streams"], served["max_batch_size"]) == (1, 2)
        await client.post("/admin/reload", headers={"Authorization": "Bearer secret"})
        assert second.timings == [{1: 0.5}, {1: 0.5}]
        served = (await client.get("/healthz")).json()["model"]
        assert served["max_batch_size"] == 8
