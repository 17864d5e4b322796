"""Environment, flags and .env; one clear line for each mistake."""

from pathlib import Path

import pytest

from app.settings import SettingsError, read_settings
from app.unknown_variables import unknown_variables


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("XCIT_")]:
        monkeypatch.delenv(name)


def test_flags_win_over_the_environment_and_that_over_dotenv(
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
        ("port", "abc", "valid integer"),
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
def test_a_bad_value_is_told_with_its_variable_or_flag(
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


def test_an_empty_cache_directory_means_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_settings(cache_dir="/somewhere").cache_dir == Path("/somewhere")
    monkeypatch.setenv("XCIT_CACHE_DIR", "")
    assert read_settings().cache_dir is None


def test_each_mistake_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XCIT_PORT", "x")
    monkeypatch.setenv("XCIT_STREAMS", "0")
    with pytest.raises(SettingsError) as caught:
        read_settings(max_batch_size="-1")
    assert len(str(caught.value).splitlines()) == 3


def test_preprocess_that_is_no_json_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XCIT_PREPROCESS", "{crop")
    with pytest.raises(SettingsError, match=r"XCIT_PREPROCESS"):
        read_settings()


def test_a_slip_in_a_variables_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XCIT_MAX_BACTH_SIZE", "4")
    monkeypatch.setenv("XCIT_PORT", "1")
    assert unknown_variables() == [
        "XCIT_MAX_BACTH_SIZE is not a setting and has no effect; did you mean XCIT_MAX_BATCH_SIZE?"
    ]
