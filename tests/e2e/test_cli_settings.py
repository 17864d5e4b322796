"""Flags, variables and misspelt words, as users type them."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.cli.main import build_parser
from app.config.settings import Settings
from model.checkpoint import BUNDLED_CHECKPOINT, read_checkpoint
from model.errors import ModelError
from model.families.variants import VARIANTS
from tests.server_process import ROOT, environment

from .conftest import Run

pytestmark = pytest.mark.one_process("these commands start no server")

LABELS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's directory, with a photo and a file of labels."""
    monkeypatch.chdir(tmp_path)
    Image.effect_noise((40, 30), 60).convert("RGB").save("photo.jpg")
    Path("labels.txt").write_text("\n".join(LABELS))


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The settings with which a command would load the model."""
    seen: list[Any] = []

    def refuse(*arguments: Any, **_: Any) -> None:
        seen.extend(arguments)
        raise ModelError("not loaded")

    monkeypatch.setattr("app.loading.load_classifier", refuse)
    return seen


@pytest.mark.parametrize("words", ["predict photo.jpg", "evaluate model.safetensors ."])
@pytest.mark.parametrize("way", ["environment", "dotenv", "flag"])
def test_commands_without_a_server_run_the_model_as_the_settings_say(
    run: Run, loaded: list[Any], monkeypatch: pytest.MonkeyPatch, way: str, words: str
) -> None:
    wanted = {
        "backend": "torch",
        "device": "cuda:7",
        "precision": "float16",
        "cache_dir": "cache",
        "compile": "true",
        "labels": "labels.txt",
        "image_size": "64",
        "preprocess": '{"crop_pct":0.5}',
        "hyperparameters": '{"tokens_norm":true}',
    }
    flags: list[str] = []
    if way == "environment":
        for name, value in wanted.items():
            monkeypatch.setenv(f"XCIT_{name.upper()}", value)
    elif way == "dotenv":
        lines = [f"XCIT_{name.upper()}='{value}'" for name, value in wanted.items()]
        Path(".env").write_text("\n".join(lines))
    else:
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in wanted.items()]
        monkeypatch.setenv("XCIT_DEVICE", "cpu")  # which a flag wins over
    assert run(*words.split(), *flags) == (1, "", ["xcit-serve: not loaded"])
    _, overrides, options = loaded
    assert (options.backend, options.device, options.precision) == ("torch", "cuda:7", "float16")
    assert (options.cache_dir, options.compile) == (Path("cache"), True)
    assert (overrides.labels, overrides.image_size) == (Path("labels.txt"), 64)
    assert overrides.preprocess == {"crop_pct": 0.5}
    assert overrides.hyperparameters == {"tokens_norm": True}


@pytest.mark.parametrize(
    "words", ["predict photo.jpg", "explain photo.jpg out.png", "inspect", "serve --port 0"]
)
def test_every_command_uses_the_checkpoint_in_the_environment(words: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app", *words.split()],
        cwd=tmp_path,
        env=environment(checkpoint="missing.pt", cache_dir="") | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "missing.pt: cannot be read: No such file" in done.stderr.splitlines()[-1]


def test_checkpoint_argument_overrides_the_environment(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XCIT_CHECKPOINT", "missing.pt")
    monkeypatch.setenv("XCIT_LABELS", "labels.txt")
    code, out, err = run("inspect", BUNDLED_CHECKPOINT)
    assert (code, err) == (0, [])
    assert "one; two; three" in out
    code, out, err = run("convert", BUNDLED_CHECKPOINT, "out.safetensors")
    assert (code, err) == (0, [])
    assert read_checkpoint("out.safetensors").spec.labels == tuple(LABELS)


def test_inspect_without_a_checkpoint_prints_the_bundled_one(run: Run) -> None:
    code, out, _ = run("inspect")
    assert code == 0
    assert str(BUNDLED_CHECKPOINT) in out


@pytest.mark.parametrize("words", ["inspect", "predict photo.jpg", "serve"])
def test_unreadable_dotenv_is_one_line_and_exit_code_2(run: Run, words: str) -> None:
    Path(".env").write_bytes(b"XCIT_PORT=\xff")
    message = "xcit-serve: .env: not UTF-8 text; save it as UTF-8"
    assert run(*words.split()) == (2, "", [message])


def test_unknown_variable_in_dotenv_is_reported(run: Run) -> None:
    Path(".env").write_text("XCIT_LABEL=labels.txt\n")
    code, _, (line,) = run("inspect")
    assert code == 0
    assert line == (
        "xcit-serve: XCIT_LABEL in .env is not a setting and has no effect; "
        "did you mean XCIT_LABELS?"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "serve --max-bach-size 4",
            "unknown option --max-bach-size; did you mean --max-batch-size?",
        ),
        ("serve --max_batch_size=4", "unknown option --max_batch_size; did you mean --max-batch-"),
        ("serve -port 4", "unknown option -port; did you mean --port?"),
        ("serve --prot=4 --max-bach-size=4", "unknown option --prot; did you mean --port?"),
        ("predict --topk 3 photo.jpg", "unknown option --topk; did you mean --top-k?"),
        ("bench --ulr http://x", "unknown option --ulr; did you mean --url?"),
        ("convert --nmae x", "unknown option --nmae; did you mean --name?"),
        ("train images --batchsize 4", "unknown option --batchsize; did you mean --batch-size?"),
        ("inspect --zzzzz", "unknown option --zzzzz; see xcit-serve inspect --help"),
        ("--verison", "unknown option --verison; did you mean --version?"),
        ("sevre", "unknown command sevre; did you mean serve?"),
        ("zzzzz", "unknown command zzzzz; see xcit-serve --help"),
        ("", "the following arguments are required: COMMAND; see xcit-serve --help"),
        ("predict", "the following arguments are required: IMAGE; see xcit-serve predict --help"),
        ("predict photo.jpg --top-k x", "argument --top-k: invalid int value: 'x'; see xcit-serve"),
        ("predict photo.jpg --backend tensor", "--backend=tensor: must be 'auto', 'torch' or"),
        ("serve --no-tracing=true", "argument --no-tracing: ignored explicit argument 'true'"),
        ("train", "the following arguments are required: DATA, --out; see xcit-serve train --help"),
    ],
)
def test_misspelt_argument_is_one_line_with_a_suggestion(
    run: Run, words: str, message: str
) -> None:
    code, out, (line,) = run(*words.split())
    assert (code, out) == (2, "")
    assert line.startswith(f"xcit-serve: {message}")


def test_image_name_may_look_like_a_flag(run: Run) -> None:
    Path("--photo.jpg").write_bytes(Path("photo.jpg").read_bytes())
    code, out, _ = run("predict", "--top-k", 1, "--cache-dir", "", "--", "--photo.jpg")
    assert code == 0
    assert out.startswith("--photo.jpg  ")


@pytest.mark.quick
def test_the_version_is_that_of_the_package(run: Run) -> None:
    assert run("--version") == (0, f"xcit-serve {version('xcit-serve')}\n", [])


def test_the_help_of_serve_shows_choices_and_switches(run: Run) -> None:
    _, out, _ = run("serve", "--help")
    for text in (
        "--backend {auto,torch,openvino}",
        "--precision {auto,float32,bfloat16,float16}",
        "--cloud {sagemaker,vertex}",
        "--log-level {debug,info,warning,error}",
        "--log-format {json,text}",
        "--no-tracing",
    ):
        assert text in out
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')} " in out


@pytest.mark.quick
def test_every_command_has_help(run: Run) -> None:
    for command in build_parser().commands:
        code, out, _ = run(command, "--help")
        assert code == 0
        assert out.startswith(f"usage: xcit-serve {command} ")


def test_variants_lists_every_published_model(run: Run) -> None:
    code, out, _ = run("variants")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == [*VARIANTS]
