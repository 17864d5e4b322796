"""Progress bars, with and without tqdm."""

import sys

import pytest
from xcit_client import AsyncClient, Client, InvalidOption

from .conftest import Script, good


def test_a_bar_counts_the_images(capsys: pytest.CaptureFixture[str]) -> None:
    with Client("http://service", transport=Script(good())) as client:
        assert len([*client.predict_many([b"1"] * 3, progress=True)]) == 3
    assert "3/3" in capsys.readouterr().err


def test_no_bar_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    with Client("http://service", transport=Script(good())) as client:
        assert len([*client.predict_many([b"1"] * 3)]) == 3
    assert not capsys.readouterr().err


def test_both_clients_name_the_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    for client in (Client("http://service"), AsyncClient("http://service")):
        with pytest.raises(InvalidOption, match=r"pip install 'xcit-client\[progress\]'"):
            client.predict_many([b"1"], progress=True)
