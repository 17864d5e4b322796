"""Secrets from files, as Docker and Kubernetes mount them."""

import argparse
from pathlib import Path

import pytest

from app.cli.remote import api_key
from app.config.secret_files import MAX_BYTES, read_secret
from app.config.settings import SettingsError
from app.config.unknown_variables import unknown_variables
from app.http.app import create_app

from .conftest import FakeClassifier, make_settings, running

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("content", [b"s3cret", b"s3cret\n", b"s3cret\r\n", b" s3cret \n\n"])
def test_final_newline_is_not_part_of_the_secret(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    assert read_secret("XCIT_ADMIN_TOKEN", None, path) == "s3cret"
    assert read_secret("XCIT_ADMIN_TOKEN", "", str(path)) == "s3cret"


def test_no_secret_without_value_and_file() -> None:
    assert read_secret("XCIT_ADMIN_TOKEN", None, None) is None
    assert read_secret("XCIT_ADMIN_TOKEN", "", "") is None
    assert read_secret("XCIT_ADMIN_TOKEN", "s3cret", None) == "s3cret"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty; it must hold the secret"),
        (b"\r\n \n", "the file is empty; it must hold the secret"),
        (b"one\ntwo\n", "must be one line of printable ASCII characters"),
        (b"\xef\xbb\xbfs3cret", "must be one line of printable ASCII characters"),
        (b"\xff\xfes\0", "must be one line of printable ASCII characters"),
        ("schlüssel".encode(), "must be one line of printable ASCII characters"),
        (b"x" * (MAX_BYTES + 1), f"over {MAX_BYTES} bytes, too long for a secret"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_unusable_secret_file_is_reported_on_one_line(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        create_app(make_settings(admin_token_file=path), FakeClassifier)
    assert str(caught.value) == f"XCIT_ADMIN_TOKEN_FILE={path}: {message}"
    with pytest.raises(SettingsError, match="Is a directory"):
        create_app(make_settings(admin_token_file=tmp_path), FakeClassifier)


def test_token_that_no_client_can_send_is_refused_and_not_shown() -> None:
    with pytest.raises(SettingsError) as caught:
        create_app(make_settings(admin_token="schlüssel"), FakeClassifier)
    assert str(caught.value) == "XCIT_ADMIN_TOKEN: must be one line of printable ASCII characters"


def test_secret_in_variable_and_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret")
    choices = {"admin_token": "s3cret", "admin_token_file": tmp_path / "token"}
    with pytest.raises(SettingsError, match="TOKEN and XCIT_ADMIN_TOKEN_FILE are both"):
        create_app(make_settings(**choices), FakeClassifier)


async def test_admin_token_is_read_from_its_file(
    classifier: FakeClassifier, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    async with running(classifier, admin_token_file=tmp_path / "token") as (client, _):
        for token, status in (("s3cret", 200), ("guess", 401)):
            headers = {"Authorization": f"Bearer {token}"}
            assert (await client.post("/admin/reload", headers=headers)).status_code == status


def test_client_key_is_read_from_flag_variable_or_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("of-the-file\n")
    without, with_flag = argparse.Namespace(api_key=None), argparse.Namespace(api_key="of-the-flag")
    monkeypatch.delenv("XCIT_CLIENT_KEY", raising=False)
    monkeypatch.setenv("XCIT_CLIENT_KEY_FILE", str(tmp_path / "key"))
    assert api_key(without) == "of-the-file"
    assert api_key(with_flag) == "of-the-flag"
    assert "XCIT_CLIENT_KEY_FILE" not in "".join(unknown_variables())
    monkeypatch.setenv("XCIT_CLIENT_KEY", "of-the-variable")
    with pytest.raises(
        SettingsError, match="XCIT_CLIENT_KEY and XCIT_CLIENT_KEY_FILE are both set"
    ):
        api_key(without)
    monkeypatch.delenv("XCIT_CLIENT_KEY_FILE")
    assert api_key(without) == "of-the-variable"
