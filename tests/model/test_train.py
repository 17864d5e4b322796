"""The recipe: resumable, reproducible, and honest about what it measures."""

import csv
import shutil
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from model.checkpoint import read_checkpoint
from model.errors import ModelError
from model.evaluation.dataset import load_dataset
from model.families.xcit import XCiT
from model.families.xcit_published import PublishedXCiT
from model.spec import PreprocessSpec
from training.augment import cutmix, flip_and_shift
from training.command import main
from training.muon import orthogonalise
from training.recipe import Recipe, recipe_for
from training.start import take_over
from training.trainer import Trainer

RECIPE = Recipe(
    name="tiny",
    image_size=8,
    patch_size=4,
    dim=16,
    depth=1,
    heads=1,
    dim_head=8,
    mlp_dim=16,
    epochs=3,
    decay_epochs=1,
    batch_size=16,
)
FLAGS = "--image-size 8 --patch-size 4 --dim 16 --depth 1 --heads 1 --dim-head 8 --mlp-dim 16"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Red and blue squares of varied shade, as an image folder."""
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 24), ("test", 8)):
        for label in ("blue", "red"):
            directory = tmp_path / "images" / split / label
            directory.mkdir(parents=True)
            for i in range(count):
                shade = int(torch.randint(80, 256, (), generator=generator))
                colour = (shade, 0, 0) if label == "red" else (0, 0, shade)
                Image.new("RGB", (8, 8), colour).save(directory / f"{i:02}.png")
    return tmp_path / "images"


def train(folder: Path, out: Path, recipe: Recipe) -> Trainer:
    spec = PreprocessSpec(recipe.image_size)
    training, test = (load_dataset(folder, split, spec, quiet=True) for split in ("train", "test"))
    out.mkdir(exist_ok=True)
    trainer = Trainer(recipe, out, training, test)
    trainer.run()
    return trainer


def weights(out: Path) -> dict[str, torch.Tensor]:
    return dict(read_checkpoint(out / "tiny.safetensors").state)


def read_metrics(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "metrics.csv").read_text().splitlines()))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_killed_run_ends_with_the_weights_of_one_never_killed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(folder, tmp_path / "whole", RECIPE)

    step = torch.optim.AdamW.step
    steps = 0

    def die(self: torch.optim.AdamW, closure: None = None) -> None:
        nonlocal steps
        steps += 1
        if steps == 5:  # in the middle of the second epoch
            raise KeyboardInterrupt
        step(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", die)
    with pytest.raises(KeyboardInterrupt):
        train(folder, tmp_path / "killed", RECIPE)
    assert len(read_metrics(tmp_path / "killed")) == 1
    train(folder, tmp_path / "killed", RECIPE)

    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    metrics = [(tmp_path / run / "metrics.csv").read_text() for run in ("whole", "killed")]
    assert metrics[0] == metrics[1]


@pytest.mark.thorough
def test_a_finished_run_may_be_prolonged_from_where_its_rates_fell(
    folder: Path, tmp_path: Path
) -> None:
    longer = replace(RECIPE, epochs=5)
    train(folder, tmp_path / "whole", longer)
    train(folder, tmp_path / "prolonged", RECIPE)
    assert not same(weights(tmp_path / "whole"), weights(tmp_path / "prolonged"))
    train(folder, tmp_path / "prolonged", longer)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "prolonged"))


def test_a_finished_run_is_left_as_it_is(folder: Path, tmp_path: Path) -> None:
    train(folder, tmp_path / "run", RECIPE)
    before = (tmp_path / "run" / "last.pt").stat().st_mtime_ns
    train(folder, tmp_path / "run", RECIPE)
    assert (tmp_path / "run" / "last.pt").stat().st_mtime_ns == before


def test_another_recipe_does_not_go_on_with_a_run(folder: Path, tmp_path: Path) -> None:
    train(folder, tmp_path / "run", RECIPE)
    with pytest.raises(ModelError, match=r"another recipe \(dim, seed differ\)"):
        train(folder, tmp_path / "run", replace(RECIPE, dim=32, seed=1))


def test_the_command_leaves_checkpoint_metrics_and_curves(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    choices = f"{FLAGS} --epochs 12 --decay-epochs 4 --batch-size 8 --average 0.8 --name tiny"
    main(["run", str(folder), "--out", str(out), *choices.split()])
    assert {path.name for path in out.iterdir()} == {
        *("tiny.safetensors", "metrics.csv", "curves.png", "last.pt", "steady.pt")
    }
    rows = read_metrics(out)
    assert [int(row["epoch"]) for row in rows] == list(range(1, 13))
    assert float(rows[-1]["test_accuracy"]) == 1.0
    checkpoint = read_checkpoint(out / "tiny.safetensors")
    assert checkpoint.spec.labels == ("blue", "red")
    assert checkpoint.spec.preprocess.mean[1] == 0.0

    capsys.readouterr()
    main(["evaluate", str(out / "tiny.safetensors"), str(folder)])
    printed = capsys.readouterr().out
    assert "16 images: top-1 100.00%" in printed
    assert "red" in printed


@pytest.mark.thorough
def test_evaluation_refuses_other_labels(folder: Path, tmp_path: Path) -> None:
    train(folder, tmp_path / "run", RECIPE)
    (folder / "test" / "red").rename(folder / "test" / "green")
    with pytest.raises(SystemExit, match="folder 'green' is none of the 2 classes"):
        main(["evaluate", str(tmp_path / "run" / "tiny.safetensors"), str(folder)])


def test_a_tar_is_as_good_as_a_folder(folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "images.tar.xz", "w:xz") as tar:
        tar.add(folder, "some/where")
    spec = PreprocessSpec(8)
    packed, plain = (
        load_dataset(source, "train", spec, quiet=True)
        for source in (tmp_path / "images.tar.xz", folder)
    )
    assert torch.equal(packed.pixels, plain.pixels)
    assert torch.equal(packed.classes, plain.classes)
    assert packed.labels == plain.labels == ("blue", "red")


def test_without_splits_a_tenth_of_each_class_is_held_out(folder: Path) -> None:
    spec = PreprocessSpec(8)
    train_set, test_set = (
        load_dataset(folder / "train", split, spec, quiet=True) for split in ("train", "test")
    )
    assert (len(train_set), len(test_set)) == (44, 4)
    assert test_set.classes.bincount().tolist() == [2, 2]


def test_images_that_cannot_be_used_are_named(folder: Path, tmp_path: Path) -> None:
    spec = PreprocessSpec(8)
    (folder / "train" / "red" / "00.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ModelError, match=r"red/00\.png: the PNG header is truncated"):
        load_dataset(folder, "train", spec, quiet=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="no images for split 'train'"):
        load_dataset(tmp_path / "empty", "train", spec, quiet=True)
    (tmp_path / "no.tar").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"no\.tar: neither a directory nor a readable tar$"):
        load_dataset(tmp_path / "no.tar", "train", spec, quiet=True)


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_a_directory_that_cannot_be_written_to_is_refused_before_any_image_is_decoded(
    folder: Path, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").touch()
    (folder / "train" / "red" / "00.png").write_bytes(b"broken")
    out = tmp_path / place
    with pytest.raises(SystemExit, match=f"^error: {out}: the run's files cannot be written there"):
        main(["run", str(folder), "--out", str(out)])


def test_a_run_with_other_labels_is_not_continued(folder: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    main(["run", str(folder), "--out", out, *FLAGS.split(), "--epochs", "1"])
    for split in ("train", "test"):
        (folder / split / "red").rename(folder / split / "crimson")
    with pytest.raises(SystemExit, match=r"labels are blue, red; .* blue, crimson; give another"):
        main(["run", str(folder), "--out", out, *FLAGS.split(), "--epochs", "2"])


@pytest.mark.parametrize("content", [b"", b"text", b"PK\3\4", None])
def test_a_file_that_is_not_the_state_of_a_run_is_refused(
    folder: Path, tmp_path: Path, content: bytes | None
) -> None:
    state = tmp_path / "last.pt"
    if content is None:
        torch.save({"epoch": 3}, state)
    else:
        state.write_bytes(content)
    with pytest.raises(SystemExit, match=r"last\.pt: not the state of a run"):
        main(["run", str(folder), "--out", str(tmp_path), *FLAGS.split()])


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("--epochs 0", "--epochs is 0; it must be at least 1"),
        ("--decay-epochs -1", "--decay-epochs is -1; it must be at least 0"),
        ("--muon-lr nan", "--muon-lr is nan; it must be from 0 to 1"),
        ("--average 1.5", "--average is 1.5; it must be from 0 to 1"),
        ("--heads 0", "--heads is 0; it must be at least 1"),
        ("--image-size 9", "--image-size is 9; it must be a multiple of --patch-size, 4"),
    ],
)
def test_choices_that_cannot_work_are_refused_before_images_are_decoded(
    folder: Path, tmp_path: Path, choice: str, message: str
) -> None:
    (folder / "train" / "red" / "00.png").write_bytes(b"broken")
    with pytest.raises(SystemExit, match=f"^error: {message}$"):
        main(["run", str(folder), "--out", str(tmp_path), *FLAGS.split(), *choice.split()])


def test_augmentation_flips_and_shifts_by_no_more_than_the_margin() -> None:
    columns = torch.arange(16, dtype=torch.uint8)[None, None, :, None].expand(500, 16, 16, 3)
    rows = columns.transpose(1, 2)
    seen = flip_and_shift(columns, torch.Generator().manual_seed(0))[:, 0, :, 0].long()
    flipped = seen[:, 5] > seen[:, 10]
    assert 150 < flipped.sum() < 350
    shift = seen[:, 8] - torch.where(flipped, 7, 8)
    assert (shift.min().item(), shift.max().item()) == (-2, 2)
    assert not (flip_and_shift(rows, torch.Generator())[:, 8, 0, 0] == 8).all()


def test_cutmix_pastes_the_share_that_it_tells() -> None:
    pixels = torch.arange(64).repeat_interleave(16 * 16 * 3).view(64, 16, 16, 3)
    mixed, pasted = cutmix(pixels, 0.5, torch.Generator().manual_seed(0))
    foreign = mixed != pixels
    assert (mixed[foreign] == pixels.roll(1, 0)[foreign]).all()
    assert torch.equal(foreign.float().mean((1, 2, 3)), pasted)
    assert 0.3 < (pasted > 0).float().mean() < 0.7
    assert pasted.max() > 0.5
    alone, pasted = cutmix(pixels, 0.0, torch.Generator())
    assert torch.equal(alone, pixels)
    assert not pasted.any()


def test_a_run_may_start_with_the_weights_of_another(folder: Path, tmp_path: Path) -> None:
    train(folder, tmp_path / "first", RECIPE)
    first = tmp_path / "first" / "tiny.safetensors"
    for split in ("train", "test"):  # and learn one class more
        for label, like in {"blue": "blue", "green": "red", "red": "red"}.items():
            shutil.copytree(folder / split / like, tmp_path / "three" / split / label)
    out = tmp_path / "second"
    choices = f"{FLAGS} --epochs 1 --batch-size 8 --name tiny --start {first} --cutmix 0.5"
    main(["run", str(tmp_path / "three"), "--out", str(out), *choices.split()])
    spec = read_checkpoint(out / "tiny.safetensors").spec
    assert spec.labels == ("blue", "green", "red")
    assert spec.preprocess == read_checkpoint(first).spec.preprocess
    assert read_checkpoint(first).sha256 in spec.provenance["start"]
    with pytest.raises(SystemExit, match="its depth is 1, not 2; leave out --depth, or start"):
        main(["run", str(folder), "--out", str(out / "b"), *choices.split(), "--depth", "2"])


def test_muon_steps_along_an_orthogonal_matrix() -> None:
    matrix = torch.randn(24, 40, generator=torch.Generator().manual_seed(0))
    for each in (matrix, matrix.mT):
        singular = torch.linalg.svdvals(orthogonalise(each[None]))
        assert singular.min() > 0.6
        assert singular.max() < 1.3


@pytest.fixture
def start(folder: Path, tmp_path: Path) -> Path:
    """A trained checkpoint."""
    train(folder, tmp_path / "first", RECIPE)
    return tmp_path / "first" / "tiny.safetensors"


def run(data: Path, out: Path, *flags: object) -> None:
    main(["run", str(data), "--out", str(out), *map(str, flags)])


def test_the_defaults_for_as_many_images_as_cifar_has_are_the_bundled_models() -> None:
    assert recipe_for(50_000, {}) == Recipe()


@given(images=st.integers(2, 2_000_000))
def test_defaults_follow_the_number_of_images(images: int) -> None:
    recipe = recipe_for(images, {})
    steps = recipe.epochs * (images // recipe.batch_size)
    assert 1 <= recipe.batch_size <= min(128, images)
    assert steps >= 500
    assert recipe.average**steps < 1e-6  # the share of the first weights in what is kept
    assert recipe.epochs == 26 or steps < 1000
    assert recipe.decay_epochs == recipe.epochs // 2


@given(images=st.integers(2, 100_000), epochs=st.integers(1, 100))
def test_a_run_of_default_choices_can_be_prolonged(images: int, epochs: int) -> None:
    short, long = (recipe_for(images, {"epochs": count}) for count in (epochs, epochs + 7))
    assert replace(short, epochs=long.epochs, decay_epochs=long.decay_epochs) == long


@pytest.mark.thorough
def test_a_checkpoint_is_fine_tuned_well_without_further_flags(
    folder: Path,
    start: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for split in ("train", "test"):
        for old, new in {"blue": "cold", "red": "warm"}.items():
            (folder / split / old).rename(folder / split / new)
    monkeypatch.setattr("training.recipe.MIN_STEPS", 150)  # which saves the test some seconds
    out = tmp_path / "tuned"
    run(folder, out, "--start", start)
    assert float(read_metrics(out)[-1]["test_accuracy"]) == 1.0
    spec = read_checkpoint(out / "tuned.safetensors").spec
    assert (spec.name, spec.labels) == ("tuned", ("cold", "warm"))
    assert spec.hyperparameters["dim"] == 16, "that of the start"
    assert "warning" not in capsys.readouterr().err


def test_an_average_that_stays_at_the_start_is_reported(
    folder: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(folder, tmp_path / "slow", "--start", start, "--average", 0.998, "--epochs", 2)
    (line,) = (row for row in capsys.readouterr().err.splitlines() if row.startswith("warning: "))
    assert "the averaged weights, which are kept, have moved only" in line
    assert "lower it, or train for more epochs" in line


def test_without_matplotlib_a_run_says_so_before_its_first_epoch(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    epoch = Trainer._train_epoch

    def train_epoch(self: Trainer, model: torch.nn.Module) -> float:
        told.append(capsys.readouterr().err)
        return epoch(self, model)

    told: list[str] = []
    monkeypatch.setattr(Trainer, "_train_epoch", train_epoch)
    train(folder, tmp_path / "run", RECIPE)
    assert told[0].count("warning: matplotlib is not installed, so curves.png is not drawn") == 1
    assert not any("matplotlib" in text for text in told[1:])
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert files == {"tiny.safetensors", "metrics.csv", "last.pt", "steady.pt"}


@pytest.fixture
def undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No image may be decoded."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("images were decoded")

    monkeypatch.setattr("training.command.load_dataset", refuse)


@pytest.mark.usefixtures("undecoded")
def test_a_start_of_another_family_is_refused_before_images_are_decoded(
    folder: Path, tmp_path: Path
) -> None:
    sizes = {"patch_size": 8, "dim": 16, "depth": 1, "cls_depth": 1, "heads": 2, "mlp_dim": 32}
    network = PublishedXCiT(**sizes, num_classes=2, tokens_norm=True)
    torch.save(network.state_dict(), tmp_path / "other.pt")
    with pytest.raises(SystemExit, match=r"other\.pt: its family is published; only the family"):
        run(folder, tmp_path / "run", "--start", tmp_path / "other.pt")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("undecoded")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images: (images / "test/red").rename(images / "test/green"), "labels: green, red"),
        (lambda images: [*map(shutil.rmtree, images.glob("*/red"))], "the only label is blue"),
        (lambda images: (images / "test").rename(images / "tset"), "no images for split 'test'"),
    ],
)
def test_folders_that_do_not_fit_are_refused_before_images_are_decoded(
    folder: Path, tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    change(folder)
    with pytest.raises(SystemExit, match=message):
        run(folder, tmp_path / "run")


@pytest.mark.usefixtures("start", "undecoded")
def test_a_run_of_another_recipe_is_refused_before_images_are_decoded(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match="holds a run of another recipe"):
        run(folder, tmp_path / "first", "--seed", 7)


@pytest.mark.usefixtures("undecoded")
def test_a_batch_larger_than_the_data_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="batch size is 128; it must be from 1 to 48 images"):
        run(folder, tmp_path / "run", *FLAGS.split(), "--batch-size", 128)


def test_a_head_is_taken_over_label_by_label(start: Path) -> None:
    checkpoint = read_checkpoint(start)
    network = XCiT(**RECIPE.architecture, num_classes=3)
    before = network.state_dict()["mlp_head.1.weight"].clone()
    take_over(network, ("red", "green", "blue"), checkpoint)
    head, old = (state["mlp_head.1.weight"] for state in (network.state_dict(), checkpoint.state))
    assert torch.equal(head[0], old[1])
    assert torch.equal(head[1], before[1])
    assert torch.equal(head[2], old[0])
