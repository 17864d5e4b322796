"""Pictures in HEIF have the pixels that Pillow and pillow-heif find in the original file."""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import AvifImagePlugin, Image, ImageOps

from model.images.preprocess import preprocess
from model.spec import PreprocessSpec
from tests.hostile import Kind, encode, picture, write
from tests.hostile.heif import ALPHA, Heif, Item, Property, clap, coded, grid, nclx

from .heifs import BOTH, KINDS, decoded, read

GOLDEN = Path(__file__).parent / "golden"
SPEC = PreprocessSpec(image_size=48)
HEIC_422 = Kind("HEIF", "RGB", {"quality": 95, "chroma": "422"}, "422")


def distance(one: Image.Image, other: Image.Image, mode: str = "RGB") -> float:
    """The largest difference of a sample."""
    first, second = (np.asarray(image.convert(mode)).astype(int) for image in (one, other))
    return float(np.abs(first - second).max())


def shown_distance(data: bytes, other: Image.Image) -> float:
    """The mean difference between the model's input and that of another picture."""
    found, expected = preprocess(data, SPEC), preprocess(encode(other, "PNG"), SPEC)
    return float(np.abs(found.astype(int) - expected).mean())


@pytest.mark.parametrize("kind", [*KINDS, HEIC_422], ids=lambda kind: kind.name)
def test_pixels_are_those_of_the_whole_file(kind: Kind) -> None:
    data = write(kind).data
    reference: Image.Image = Image.open(io.BytesIO(data))
    found = decoded(data)
    reference.load()
    assert found.size == reference.size
    assert ("A" in found.mode) == ("A" in reference.mode)
    # Premultiplied colours where the picture is nearly transparent are rounded differently.
    if kind.label == "premultiplied":
        found, reference = (Image.alpha_composite(WHITE, one) for one in (found, reference))
        assert distance(found, reference) <= 2
    else:
        assert distance(found, reference, reference.mode) == 0


WHITE = Image.new("RGBA", picture().size, "white")


@pytest.mark.parametrize("name", ["10-bit-420", "12-bit-422", "12-bit-444"])
def test_wide_samples_of_avif_are_scaled_to_8_bits(name: str) -> None:
    """The files hold `picture`; libaom wrote them, which Pillow contains for 8 bits only."""
    data = (GOLDEN / f"{name}.avif").read_bytes()
    assert read(data).mosaic.colours.bits == int(name[:2])  # type: ignore[union-attr]
    # Pillow converts to three bytes per pixel, for which libavif does not use libyuv.
    assert distance(decoded(data), Image.open(io.BytesIO(data))) <= 3
    assert np.abs(np.asarray(decoded(data).convert("RGB")).astype(int) - picture()).mean() < 5


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize("bits", [10, 12])
def test_wide_samples_of_heic_are_scaled_to_8_bits(
    monkeypatch: pytest.MonkeyPatch, bits: int, mode: str
) -> None:
    monkeypatch.setattr(pillow_heif.options, "SAVE_HDR_TO_12_BIT", bits == 12)
    image = picture().convert(mode)
    samples = np.asarray(image).astype("<u2") * 257
    name = "I;16" if mode == "L" else f"{mode};16"
    file, buffer = pillow_heif.from_bytes(name, image.size, samples.tobytes()), io.BytesIO()
    file.save(buffer, quality=95, chroma="444")
    found = decoded(buffer.getvalue())
    assert read(buffer.getvalue()).mosaic.colours.bits == bits  # type: ignore[union-attr]
    assert found.mode == mode
    assert np.abs(np.asarray(found).astype(int) - image).mean() < 2


def in_tiles(image: Image.Image, image_format: str) -> list[Item]:
    """Six tiles of 64 x 64, three in a row."""
    boxes = [(x, y, x + 64, y + 64) for y in (0, 64) for x in (0, 64, 128)]
    return [coded(image.crop(box), image_format, quality=95) for box in boxes]


@BOTH
@pytest.mark.parametrize("size", [(192, 128), (161, 101)])
def test_tiles_of_a_grid_are_put_together(image_format: str, size: tuple[int, int]) -> None:
    tiles = in_tiles(picture(192, 128), image_format)
    data = Heif([grid(2, 3, size, range(2, 8)), *tiles]).data()
    found = np.asarray(decoded(data).convert("RGB")).astype(int)
    assert found.shape == (size[1], size[0], 3)
    assert np.abs(found - picture(192, 128).crop((0, 0, *size))).mean() < 3
    for number, tile in enumerate(tiles):
        row, column = divmod(number, 3)
        alone = np.asarray(decoded(Heif([tile]).data()).convert("RGB"))
        part = found[64 * row : 64 * row + 64, 64 * column : 64 * column + 64]
        assert np.array_equal(part, alone[: part.shape[0], : part.shape[1]])


@BOTH
def test_colours_of_a_grid_may_be_those_of_its_tiles(image_format: str) -> None:
    profile = b"a profile"
    tiles = [
        replace(one, properties=[*one.properties[:2], nclx(1, 13, 6, full_range=False)])
        for one in in_tiles(picture(192, 128), image_format)
    ]
    limited = decoded(Heif([grid(2, 3, (192, 128), range(2, 8)), *tiles]).data())
    full_range = nclx(1, 13, 6)
    data = Heif([grid(2, 3, (192, 128), range(2, 8), full_range), *tiles]).data()
    assert distance(limited, decoded(data)) > 10
    tiles = [one.plus((b"colr", b"prof" + profile)) for one in tiles]
    assert read(Heif([grid(2, 3, (192, 128), range(2, 8)), *tiles]).data()).profile == profile
    own: Property = (b"colr", b"rICC" + profile * 2)
    data = Heif([grid(2, 3, (192, 128), range(2, 8), own), *tiles]).data()
    assert read(data).profile == profile * 2


def test_grid_written_by_libheif_has_its_pixels() -> None:
    data = encode(picture(192, 128), "HEIF", quality=90, tile_size=64)
    assert b"grid" in data
    assert distance(decoded(data), Image.open(io.BytesIO(data))) == 0


@BOTH
@pytest.mark.parametrize("where", ["whole", "grid", "tiles", "some tiles"])
def test_transparency_of_a_grid(image_format: str, where: str) -> None:
    """As an item for the whole picture, coded or a grid, or an item for each tile."""
    tiles = in_tiles(picture(192, 128), image_format)
    levels = Image.linear_gradient("L").resize((192, 128))
    parts = in_tiles(levels, image_format)
    kind: Property = (b"auxC", bytes(4) + ALPHA)
    items = [grid(2, 3, (192, 128), range(2, 8)), *tiles]
    if where == "whole":
        items.append(replace(coded(levels, image_format).plus(kind), references=[(b"auxl", [1])]))
    elif where == "grid":
        alpha = grid(2, 3, (192, 128), range(9, 15), kind)
        references = [*alpha.references, (b"auxl", [1])]
        items += [replace(alpha, references=references), *parts]
    else:
        masters = range(2, 8 if where == "tiles" else 5)
        items += [
            replace(part.plus(kind), references=[(b"auxl", [master])])
            for part, master in zip(parts, masters, strict=False)
        ]
    found = decoded(Heif(items).data())
    if where == "some tiles":
        assert "A" not in found.mode
    else:
        assert found.mode == "RGBA"
        difference = np.asarray(found.getchannel("A")).astype(int) - np.asarray(levels)
        assert np.abs(difference).max() <= 3


TURNS = {
    (): 1,
    (("imir", 1),): 2,
    (("irot", 2),): 3,
    (("imir", 0),): 4,
    (("irot", 1), ("imir", 0)): 5,
    (("imir", 0), ("irot", 3)): 5,
    (("irot", 3),): 6,
    (("irot", 1), ("imir", 1)): 7,
    (("imir", 1), ("irot", 3)): 7,
    (("imir", 0), ("irot", 1)): 7,
    (("irot", 1),): 8,
    (("irot", 2), ("imir", 1)): 4,
    (("imir", 1), ("irot", 2)): 4,
    (("irot", 1), ("irot", 1)): 3,
}


def turned(item: Item, turns: Sequence[tuple[str, int]]) -> Item:
    return item.plus(*((kind.encode(), bytes((value,))) for kind, value in turns))


@pytest.mark.parametrize(("turns", "orientation"), TURNS.items(), ids=str)
def test_rotation_and_mirror_are_applied_in_their_order(
    turns: Sequence[tuple[str, int]], orientation: int
) -> None:
    data = Heif([turned(coded(picture(64, 64), "HEIF", quality=95), turns)]).data()
    assert read(data).orientation == orientation
    assert shown_distance(data, pillow_heif.open_heif(data).to_pillow()) < 0.5


@pytest.mark.parametrize("turns", [turns for turns in TURNS if len(turns) < 2], ids=str)
def test_avif_is_turned_like_heic(turns: Sequence[tuple[str, int]]) -> None:
    item = turned(coded(picture(64, 64), "AVIF", quality=95), turns)
    data = Heif([item], brands=b"avif\0\0\0\0mif1avif").data()
    assert read(data).orientation == TURNS[tuple(turns)]
    with Image.open(io.BytesIO(data)) as image:
        reference = ImageOps.exif_transpose(image)
    assert shown_distance(data, reference) < 0.5


@BOTH
def test_orientation_in_exif_is_ignored(image_format: str) -> None:
    """As in browsers: it may contradict the box, which counts."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a secret word"
    plain = encode(picture(), image_format)
    if image_format == "HEIF":  # pillow-heif makes no box from this object
        data = encode(picture(), image_format, exif=exif)
        assert np.array_equal(preprocess(data, SPEC), preprocess(plain, SPEC))
    data = encode(picture(), image_format, exif=exif.tobytes())
    assert read(data).orientation == 6
    assert np.array_equal(preprocess(data, SPEC), np.rot90(preprocess(plain, SPEC), -1))
    assert b"secret" in data
    assert not any(b"secret" in file for file in read(data).mosaic.colours.files)  # type: ignore[union-attr]


@BOTH
@pytest.mark.parametrize("turns", [(), (("irot", 1),)])
def test_crop_is_applied_before_the_rotation(
    image_format: str, turns: Sequence[tuple[str, int]]
) -> None:
    item = coded(picture(64, 64), image_format, quality=95)
    whole = decoded(Heif([item]).data())
    crop = clap((20, 1), (41, 1), (-7, 1), (-3, 2))
    data = Heif([turned(item.plus(crop), turns)]).data()
    box = (15, 10, 35, 51)
    assert distance(decoded(data), whole.crop(box)) == 0
    if image_format == "HEIF":
        assert shown_distance(data, pillow_heif.open_heif(data).to_pillow()) < 2


def test_avif_without_exported_functions_is_decoded_by_pillow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = encode(picture(), "AVIF")
    expected = decoded(data)
    monkeypatch.setattr("model.images.avif._library", None)
    assert distance(decoded(data), expected) == 0
    assert AvifImagePlugin.DEFAULT_MAX_THREADS == 1
