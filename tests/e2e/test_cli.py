"""The commands that need no server, as users type them."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image, ImageChops

from app.cli.main import main
from app.config.settings import Settings
from model.checkpoint import BUNDLED_CHECKPOINT, read_checkpoint, write_checkpoint
from tests.server_process import ROOT, environment

pytestmark = pytest.mark.one_process("these commands start no server")


@dataclass
class Done:
    """Exit code and output of a finished command."""

    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Done]


@pytest.fixture
def xcit_serve(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run ``xcit-serve`` with the given arguments in this process, where it starts at once."""
    monkeypatch.setenv("XCIT_BACKEND", "torch")
    monkeypatch.setenv("XCIT_STREAMS", "2")

    def run(*arguments: object) -> Done:
        threads = torch.get_num_threads()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            torch.set_num_threads(threads)
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    Image.effect_noise((200, 150), 60).convert("RGB").save(path)
    return path


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """The bundled weights as a bare state dict."""
    path = tmp_path / "raw.pt"
    torch.save(dict(read_checkpoint(BUNDLED_CHECKPOINT).state), path)
    return path


@pytest.mark.quick
def test_predict_prints_a_table(xcit_serve: Command, photo: Path) -> None:
    done = xcit_serve("predict", photo, "--top-k", 3)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(str(photo))
    assert "%" in lines[0]


def test_predict_as_json_skips_and_reports_unreadable_images(
    xcit_serve: Command, photo: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photo.read_bytes()[:1500])
    done = xcit_serve("predict", "--json", photo, broken, tmp_path / "absent.jpg", photo)
    assert done.returncode == 1
    answers = json.loads(done.stdout)
    assert [answer["file"] for answer in answers] == [str(photo)] * 2
    assert len(answers[0]["predictions"]) == 5
    assert set(answers[0]["predictions"][0]) == {"class_id", "label", "score"}
    assert done.stderr.splitlines() == [
        f"xcit-serve: {broken}: the JPEG data is truncated: pixels are missing at its end",
        f"xcit-serve: {tmp_path / 'absent.jpg'}: No such file or directory",
    ]


def test_predict_shows_all_classes_of_a_small_model(
    xcit_serve: Command, photo: Path, tmp_path: Path
) -> None:
    whole = read_checkpoint(BUNDLED_CHECKPOINT)
    spec = replace(
        whole.spec,
        hyperparameters={**whole.spec.hyperparameters, "num_classes": 3},
        labels=whole.spec.labels[:3],
    )
    heads = {k: v[:3].clone() for k, v in whole.state.items() if k.startswith("mlp_head.1.")}
    few = tmp_path / "few.safetensors"
    write_checkpoint(few, spec, {**whole.state, **heads})
    done = xcit_serve("predict", photo, "--checkpoint", few)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 3


@pytest.mark.quick
def test_explain_draws_a_head_or_the_mean(xcit_serve: Command, photo: Path, tmp_path: Path) -> None:
    pictures = [tmp_path / name for name in ("mean.png", "head.png")]
    assert xcit_serve("explain", photo, pictures[0]).returncode == 0
    assert xcit_serve("explain", photo, pictures[1], "--head", 1).returncode == 0
    assert pictures[0].read_bytes() != pictures[1].read_bytes()
    with Image.open(pictures[0]) as image:
        assert (image.format, image.size) == ("PNG", (448, 448))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("{photo}", "out.jpg"), 2, "out.jpg: the output's name must end in .png"),
        (("missing.jpg", "{out}"), 1, "missing.jpg: No such file or directory"),
        (("{photo}", "no/where.png"), 1, "no/where.png: No such file or directory"),
        (("{photo}", "{out}", "--head", "99"), 1, "head is 99; it must be from 0 to"),
        ((__file__, "{out}"), 1, "not a JPEG, PNG"),
    ],
)
def test_failed_explanation_is_one_line(
    xcit_serve: Command,
    photo: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    out = tmp_path / "out.png"
    done = xcit_serve("explain", *(text.format(photo=photo, out=out) for text in arguments))
    assert (done.returncode, done.stderr.count("\n")) == (code, 1)
    assert message in done.stderr
    assert not out.exists()


@pytest.mark.quick
def test_inspect_describes_a_checkpoint(xcit_serve: Command, raw: Path) -> None:
    bundled = xcit_serve("inspect", BUNDLED_CHECKPOINT)
    assert bundled.returncode == 0
    for word in ("xcit-cifar10", "vit_pytorch", "self-describing", "airplane", "patch_size"):
        assert word in bundled.stdout
    assert "raw state dict" in xcit_serve("inspect", raw).stdout


@pytest.mark.quick
def test_convert_writes_the_self_describing_form(
    xcit_serve: Command, raw: Path, tmp_path: Path, photo: Path
) -> None:
    labels, output = tmp_path / "l.txt", tmp_path / "out.safetensors"
    labels.write_text("\n".join("abcdefghij"))
    done = xcit_serve(
        *("convert", raw, output, "--name", "mine", "--version", "2", "--labels", labels),
        *("--preprocess", '{"crop_pct": 0.9}'),
    )
    assert done.returncode == 0, done.stderr
    spec = read_checkpoint(output).spec
    assert (spec.name, spec.version, spec.labels) == ("mine", "2", tuple("abcdefghij"))
    assert spec.preprocess.crop_pct == 0.9
    predicted = xcit_serve("predict", photo, "--checkpoint", output, "--json")
    assert json.loads(predicted.stdout)[0]["predictions"][0]["label"] in "abcdefghij"


def test_convert_to_16_bits_halves_the_file(
    xcit_serve: Command, tmp_path: Path, photo: Path
) -> None:
    output = tmp_path / "half.safetensors"
    done = xcit_serve("convert", BUNDLED_CHECKPOINT, output, "--dtype", "bfloat16")
    assert done.returncode == 0, done.stderr
    assert output.stat().st_size < 0.55 * BUNDLED_CHECKPOINT.stat().st_size
    rows = [
        json.loads(xcit_serve("predict", photo, "--checkpoint", file, "--json").stdout)[0]
        for file in (BUNDLED_CHECKPOINT, output)
    ]
    (whole, half) = ({r["label"]: r["score"] for r in row["predictions"]} for row in rows)
    assert half == {label: pytest.approx(whole[label], abs=0.05) for label in half}


def test_evaluate_measures_an_image_folder(
    xcit_serve: Command, photo: Path, tmp_path: Path
) -> None:
    answer = json.loads(xcit_serve("predict", photo, "--json").stdout)[0]["predictions"]
    for place, label in enumerate((answer[0]["label"], answer[1]["label"])):
        folder = tmp_path / "images" / label
        folder.mkdir(parents=True)
        (folder / f"{place}.jpg").write_bytes(photo.read_bytes())
    done = xcit_serve("evaluate", BUNDLED_CHECKPOINT, tmp_path / "images")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 images: top-1 50.00%, top-5 100.00%")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = xcit_serve("evaluate", BUNDLED_CHECKPOINT, tmp_path / "images", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["images"] == 2
    assert f"{answer[1]['label']}/broken.png: the PNG header is truncated" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["evaluate", str(BUNDLED_CHECKPOINT), "/no/images"],
            1,
            "xcit-serve: /no/images: cannot be",
        ),
        (["inspect", "--image-size", "64", str(BUNDLED_CHECKPOINT)], 1, "xcit-serve: /"),
        (["inspect", "xcit_tiny_12_p17_224"], 1, "xcit-serve: xcit_tiny_12_p17_224: neither"),
        (["inspect", "/nowhere.pt"], 1, "xcit-serve: /nowhere.pt: cannot be read: No such file"),
        (["predict", "--checkpoint", "/nowhere.pt", "x"], 1, "xcit-serve: /nowhere.pt: cannot"),
        (["predict", "--top-k", "11", "x"], 2, "xcit-serve: --top-k=11: must be from 1 to 10"),
        (["convert", "a.pt", "b.pt"], 2, "xcit-serve: b.pt: the output's name must end in"),
        (["inspect", "x", "--preprocess", "{"], 2, "xcit-serve: --preprocess={: not JSON"),
        (["serve", "--port", "x"], 2, "xcit-serve: --port=x: "),
    ],
)
def test_mistakes_are_one_line(
    xcit_serve: Command, arguments: list[str], code: int, message: str
) -> None:
    done = xcit_serve(*arguments)
    assert done.returncode == code
    (line,) = done.stderr.splitlines()
    assert line.startswith(message)


def test_help_names_every_command_and_needs_no_torch() -> None:
    program = (
        "import runpy, sys; sys.modules['torch'] = None; sys.argv = ['xcit-serve', '--help'];"
        "runpy.run_module('app', run_name='__main__', alter_sys=False)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    for command in ("serve", "predict", "inspect", "convert"):
        assert command in done.stdout


def test_the_help_of_serve_names_every_setting(xcit_serve: Command) -> None:
    printed = xcit_serve("serve", "--help").stdout
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in printed
    assert "XCIT_MAX_BATCH_SIZE" in printed


def test_sample_photo_matches_its_script_and_shows_a_ship(
    xcit_serve: Command, tmp_path: Path
) -> None:
    sample, drawn = ROOT / "examples" / "ship.jpg", tmp_path / "ship.jpg"
    subprocess.run([sys.executable, ROOT / "scripts" / "sample_photo.py", drawn], check=True)
    with Image.open(sample) as kept, Image.open(drawn) as made:
        difference = ImageChops.difference(kept, made)
        assert numpy.asarray(difference).max() <= 8  # as much as encoders and decoders differ
    done = xcit_serve("predict", sample, "--json")
    best = json.loads(done.stdout)[0]["predictions"][0]
    assert best["label"] == "ship"
    assert best["score"] > 0.8
