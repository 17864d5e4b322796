"""Settings from flags, environment and ``.env``, and messages about invalid ones."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import SecretStr

from app.cli.main import parse
from app.cli.parser import settings_in
from app.config.settings import Settings, SettingsError, flag_of, read_settings, variable_of
from app.config.unknown_variables import unknown_variables

pytestmark = pytest.mark.one_process("about settings")

SPECIAL = {"device": "cuda:1", "root_path": "/models/xcit"}
WAYS = ("environment", "dotenv", "flag")


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("XCIT_")]:
        monkeypatch.delenv(name)


def test_flags_override_the_environment_which_overrides_dotenv(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("XCIT_PORT=1\nXCIT_HOST=a\nXCIT_DEVICE=cpu\nOTHER=1\n")
    monkeypatch.setenv("XCIT_PORT", "2")
    monkeypatch.setenv("XCIT_HOST", "b")
    settings = read_settings(port="3")
    assert (settings.port, settings.host, settings.device) == (3, "b", "cpu")


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        read_settings().port = 1


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("port", "abc", "must be a whole number"),
        ("tracing", "maybe", "must be true or false"),
        ("request_timeout_s", "10s", "must be a number"),
        ("host", "", "must not be empty"),
        ("port", "70000", "less than or equal to 65535"),
        ("max_batch_size", "0", "greater than or equal to 1"),
        ("max_pixels", "999999999", "less than or equal to 178000000"),
        ("precision", "int4", "'auto', 'float32', 'bfloat16' or 'float16'"),
        ("device", "gpu", "must be auto, cpu, cuda, cuda:N or mps"),
        ("device", "cuda:x", "must be auto, cpu, cuda, cuda:N or mps"),
        ("request_timeout_s", "0", "greater than 0"),
        ("drain_delay_s", "-1", "greater than or equal to 0"),
        ("log_format", "xml", "'json' or 'text'"),
    ],
)
def test_invalid_value_is_reported_with_its_variable_or_flag(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(**{name: value})
    flag = f"--{name.replace('_', '-')}={value}"
    assert str(caught.value).startswith(flag)
    assert message in str(caught.value)
    monkeypatch.setenv(f"XCIT_{name.upper()}", value)
    with pytest.raises(SettingsError, match=f"^XCIT_{name.upper()}={value}: "):
        read_settings()


def test_empty_cache_directory_means_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_settings(cache_dir="/somewhere").cache_dir == Path("/somewhere")
    monkeypatch.setenv("XCIT_CACHE_DIR", "")
    assert read_settings().cache_dir is None


def test_each_invalid_value_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XCIT_PORT", "x")
    monkeypatch.setenv("XCIT_STREAMS", "0")
    with pytest.raises(SettingsError) as caught:
        read_settings(max_batch_size="-1")
    assert len(str(caught.value).splitlines()) == 3


def test_invalid_json_in_preprocess_is_reported_on_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XCIT_PREPROCESS", "{crop")
    with pytest.raises(SettingsError, match=r"XCIT_PREPROCESS"):
        read_settings()


def test_misspelt_variable_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XCIT_MAX_BACTH_SIZE", "4")
    monkeypatch.setenv("XCIT_PORT", "1")
    assert unknown_variables() == [
        "XCIT_MAX_BACTH_SIZE is not a setting and has no effect; did you mean XCIT_MAX_BATCH_SIZE?"
    ]


def kinds_in(annotation: Any) -> Iterator[Any]:
    """The types of a union, without their constraints."""
    if get_origin(annotation) is Annotated:
        yield from kinds_in(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for each in get_args(annotation):
            yield from kinds_in(each)
    else:
        yield annotation


def another_value(name: str) -> Any:
    """A valid value of a setting that is not its default."""
    if name in SPECIAL:
        return SPECIAL[name]
    field = Settings.model_fields[name]
    kinds = {*kinds_in(field.annotation)}
    if name == "http_workers":
        return 3
    for kind in kinds:
        if get_origin(kind) is Literal:
            return next(choice for choice in get_args(kind) if choice != field.default)
    if bool in kinds:
        return not field.default
    if Path in kinds:
        return Path("some/where")
    if str in kinds or SecretStr in kinds:
        return "other"
    if int in kinds:
        return (field.default or 6) + 1
    if float in kinds:
        return (field.default or 1.0) + 0.5
    return {"crop_pct": 0.875, "text": "with = and spaces"}


def text_of(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict | bool) else str(value)


def give(way: str, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with one value from a flag, the environment or ``.env``."""
    if way == "environment":
        monkeypatch.setenv(variable_of(name), text)
    elif way == "dotenv":
        Path(".env").write_text(f"{variable_of(name)}='{text}'\n")
    words = ["serve", f"{flag_of(name)}={text}"] if way == "flag" else ["serve"]
    return read_settings(**settings_in(parse(words)))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", Settings.model_fields)
def test_each_setting_can_be_set_by_flag_environment_and_dotenv(
    monkeypatch: pytest.MonkeyPatch, name: str, way: str
) -> None:
    value = another_value(name)
    found = getattr(give(way, name, text_of(value), monkeypatch), name)
    assert value != Settings.model_fields[name].default
    assert (found.get_secret_value() if isinstance(found, SecretStr) else found) == value


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "name",
    [
        name
        for name, field in Settings.model_fields.items()
        if type(None) in get_args(field.annotation)
    ],
)
def test_empty_value_unsets_an_optional_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, way: str
) -> None:
    assert getattr(give(way, name, "", monkeypatch), name) is None


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{crop", "not JSON: "),
        ("[0.875]", "must be a JSON object"),
        ("7", "must be a JSON object"),
        ("[" * 100_000, "not JSON: "),
    ],
    ids=["broken", "list", "number", "nested"],
)
def test_a_json_setting_that_is_not_an_object_is_refused_on_one_line(
    monkeypatch: pytest.MonkeyPatch, text: str, message: str, way: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        give(way, "preprocess", text, monkeypatch)
    source = {"flag": "--preprocess", "dotenv": ".env: XCIT_PREPROCESS"}.get(way, "XCIT_PREPROCESS")
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{source}=")
    assert message in line
    assert len(line) < 300


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--tracing"], True),
        (["--no-tracing"], False),
        (["--tracing", "true"], True),
        (["--tracing=false"], False),
        (["--tracing", "--no-tracing"], False),
        (["--tracing", "--port", "1"], True),
    ],
)
def test_a_boolean_setting_is_a_switch(words: list[str], expected: bool) -> None:
    given = settings_in(parse(["serve", *words]))
    assert read_settings(**given).tracing is expected


def test_invalid_value_is_reported_on_one_line_of_bounded_length() -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(port="1\n2\x1b[31m" + "x" * 1000)
    (line,) = str(caught.value).splitlines()
    assert line.isprintable()
    assert len(line) < 300


@pytest.mark.parametrize(
    "content", [b"XCIT_PORT=8\xff\n", "XCIT_PORT=8\n".encode("utf-16"), b"XCIT_PORT=\0\n"]
)
def test_a_dotenv_that_is_not_utf_8_is_refused_on_one_line(content: bytes) -> None:
    Path(".env").write_bytes(content)
    with pytest.raises(SettingsError, match=r"^\.env: .*UTF-8[^\n]*$"):
        read_settings()


def test_a_dotenv_that_is_a_directory_is_refused_on_one_line() -> None:
    Path(".env").mkdir()
    with pytest.raises(SettingsError, match=r"^\.env: cannot be read: Is a directory$"):
        read_settings()


def test_a_dotenv_that_links_to_nothing_is_refused_on_one_line() -> None:
    Path(".env").symlink_to("nowhere")
    with pytest.raises(SettingsError, match=r"^\.env: a link to a file that does not exist$"):
        read_settings()


def test_a_dotenv_that_may_not_be_read_is_refused_on_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(SettingsError, match=r"^\.env: cannot be read: Permission denied$"):
        read_settings()


def test_a_dotenv_may_begin_with_a_byte_order_mark() -> None:
    Path(".env").write_text("XCIT_PORT=5\n", encoding="utf-8-sig")
    assert read_settings().port == 5
    assert unknown_variables() == []


def test_typing_errors_in_dotenv_are_reported() -> None:
    Path(".env").write_text(
        "# XCIT_COMMENT=1\nXCIT_PROT=1\nOTHER=1\nXCIT_CLIENT_KEY=k\nXCIT_PUBLISH=8000\n\n"
        "xcit_port=1\nXCIT PORT 8\n"
    )
    assert unknown_variables() == [
        "XCIT_PROT in .env is not a setting and has no effect; did you mean XCIT_PORT?",
        ".env, line 8 has no effect; expected NAME=VALUE",
    ]


def test_invalid_value_in_dotenv_is_reported_with_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("XCIT_PORT=x\n")
    with pytest.raises(SettingsError, match=r"^\.env: XCIT_PORT=x: must be a whole number$"):
        read_settings()
    monkeypatch.setenv("xcit_port", "y")
    with pytest.raises(SettingsError, match=r"^XCIT_PORT=y: "):
        read_settings()
