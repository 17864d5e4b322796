"""Allowed ``Host`` names, against DNS rebinding."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from app.config.settings import SettingsError
from app.http.app import create_app
from app.http.hosts import AllowedHosts, allowed_hosts, parse_host
from app.serving.errors import MisdirectedRequest

from .conftest import FakeClassifier, make_settings, running
from .messages import problem

pytestmark = pytest.mark.anyio

OWN = ("localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "[0:0:0:0:0:0:0:1]", "::1")
STRANGE = (
    "evil.example",
    "localhost.evil.example",
    "10.0.0.1",
    "127.0.0.1.nip.io",
    "",
    "[::1",
    "a b",
)


def answers(setting: str, bound_to: str, *hosts: str, by_address: bool = False) -> bool:
    """Whether a request with these ``Host`` fields is answered."""
    check = AllowedHosts(allowed_hosts(setting, bound_to)).check
    headers = Headers(raw=[(b"host", host.encode("latin-1")) for host in hosts])
    try:
        check(headers, by_address=by_address)
    except MisdirectedRequest:
        return False
    return True


@pytest.mark.parametrize("bound_to", ["127.0.0.1", "localhost", "::1", "[::1]", "::ffff:127.0.0.1"])
def test_only_loopback_names_are_answered_on_loopback(bound_to: str) -> None:
    for host in OWN[:-1]:
        assert answers("", bound_to, host), host
        assert answers("", bound_to, f"{host.partition(':8')[0]}"), host
    for host in STRANGE:
        assert not answers("", bound_to, host), host
        assert not answers("", bound_to, "localhost", host), host
    assert answers("", bound_to)  # HTTP/1.0, which browsers do not use


def test_other_loopback_address_is_answered_by_its_address() -> None:
    assert answers("", "127.0.0.2", "127.0.0.2:8000")
    assert not answers("", "127.0.0.1", "127.0.0.2:8000")


@pytest.mark.parametrize("bound_to", ["0.0.0.0", "::", "10.1.2.3", "photos.example.org"])
def test_any_name_is_answered_on_other_addresses(bound_to: str) -> None:
    for host in (*OWN, *STRANGE):
        assert answers("", bound_to, host)
        assert answers("*", "127.0.0.1", host)


def test_configured_names_match_with_any_port_and_case() -> None:
    setting = "Photos.Example.org:8443, *.example.net ::1,10.0.0.1, bücher.example"
    for host in (
        *("photos.example.org", "PHOTOS.example.org.:1", "a.example.net", "a.b.example.net:80"),
        *("[::1]:8000", "10.0.0.1", "xn--bcher-kva.example"),
    ):
        assert answers(setting, "0.0.0.0", host), host
    for host in (
        "example.net",
        "example.org",
        "xphotos.example.org",
        "evil-example.net",
        "localhost",
    ):
        assert not answers(setting, "0.0.0.0", host), host


def test_probes_are_answered_by_address_and_not_by_unknown_name() -> None:
    for host in ("10.0.0.7:8000", "[fd00::7]:8000"):
        assert answers("photos.example.org", "0.0.0.0", host, by_address=True)
        assert not answers("photos.example.org", "0.0.0.0", host)
    assert not answers("photos.example.org", "0.0.0.0", "evil.example", by_address=True)


@given(st.text(string.printable, max_size=30), st.sampled_from(["", "a.example", "*.example"]))
def test_any_host_field_can_be_checked(host: str, setting: str) -> None:
    assert answers(setting, "127.0.0.1", host) in (True, False)


@pytest.mark.parametrize(
    "name",
    ["http://a.example", "a.example/x", "*a.example", "a.*.example", "[::1", "a:b:c", "-" * 64],
)
def test_malformed_name_is_reported_on_one_line(name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_host(name)
    assert str(caught.value).startswith(f"XCIT_ALLOWED_HOSTS={name}: expected a host")
    with pytest.raises(SettingsError):
        create_app(make_settings(allowed_hosts=f"localhost,{name}"), FakeClassifier)


async def test_unknown_host_is_refused_on_every_route(classifier: FakeClassifier) -> None:
    async with running(classifier, allowed_hosts="") as (client, _):
        evil = {"Host": "evil.example:8000"}
        for method, path in (
            *(("GET", "/"), ("GET", "/healthz"), ("GET", "/metrics"), ("GET", "/nowhere")),
            *(("POST", "/predict"), ("POST", "/explain"), ("GET", "/livez")),
        ):
            response = await client.request(method, path, headers=evil)
            detail = problem(response, 421, "misdirected-request")
            assert '"evil.example:8000"' in detail
            assert "XCIT_ALLOWED_HOSTS" in detail
        metrics = await client.get("/metrics", headers={"Host": "127.0.0.1"})
        assert 'xcit_rejected_total{reason="misdirected_request"} 7.0' in metrics.text
        assert classifier.batches == []
        long = await client.get("/", headers={"Host": "x" * 5000})
        assert len(long.text) < 1000
