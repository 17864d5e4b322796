"""The structure of HEIF files: accepted and refused kinds, limits, and the decoder's file."""

import struct
import time
from contextlib import suppress
from dataclasses import replace

import pytest
from PIL import Image

from model.errors import ImageError, ImageTooLarge, InvalidImage, UnsupportedImage
from model.images.preprocess import preprocess
from model.images.structure import read_structure
from model.images.structure.work import MAX_SECONDS, seconds
from model.spec import PreprocessSpec
from tests.hostile import Kind, encode, picture, write
from tests.hostile.heif import ALPHA, Heif, Item, Property, clap, coded, grid, ispe, nclx, walk
from tests.hostile.heif_bombs import HEIF_BOMBS, honest_grid
from tests.yardstick import slowness

from .heifs import BOTH, KINDS, MANY, check, mosaic, tile

SPEC = PreprocessSpec(image_size=32)


@BOTH
def test_decoder_sees_one_item_without_metadata(image_format: str) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a secret word"
    others = [Image.new("RGB", (64, 48), colour) for colour in ("red", "blue")]
    options = {"exif": exif, "icc_profile": b"another secret" * 50, "xmp": b"<secret>"}
    data = encode(picture(), image_format, **options, save_all=True, append_images=others)
    assert b"a secret word" in data
    (file,) = mosaic(data).colours.files
    kinds = [kind for kind, _ in walk(file)]
    assert kinds.count(b"infe") == 1
    assert {*kinds} - {b"av1C", b"hvcC", b"colr"} == {
        *(b"ftyp", b"meta", b"hdlr", b"pitm", b"iinf", b"infe", b"iloc", b"mdat"),
        *(b"iprp", b"ipco", b"ipma", b"ispe", b"pixi"),
    }
    assert b"secret" not in file
    assert len(file) < len(data)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_file_cut_at_any_byte_is_refused(kind: Kind) -> None:
    data = write(kind).data
    found = mosaic(data)
    files = [*found.colours.files, *(found.alpha.files if found.alpha else ())]
    end = max(data.rindex(file[-16:]) for file in files) + 16
    for kept in range(16, end, 7):
        with pytest.raises((InvalidImage, UnsupportedImage)):
            mosaic(data[:kept])
    assert mosaic(data[: end + 1])


def test_missing_part_of_a_file_is_named() -> None:
    data = Heif([tile()]).data()
    for kept, message in (
        (len(data) - 1, "part of the picture is missing"),
        (data.index(b"ispe") + 8, "its box 'meta' has a wrong length"),
        (20, "its box 'ftyp' has a wrong length"),
        (24, "it has no picture"),
    ):
        with pytest.raises(InvalidImage, match=message):
            mosaic(data[:kept])


@pytest.mark.parametrize("name", ["many associations", "many references", "too many extents"])
def test_parts_of_a_file_are_limited(name: str) -> None:
    with pytest.raises(ImageTooLarge, match="the HEIC has over 65536 parts; save it as JPEG"):
        mosaic(HEIF_BOMBS[name]())


@pytest.mark.parametrize("name", HEIF_BOMBS)
def test_bomb_is_read_within_half_a_second(name: str) -> None:
    data = HEIF_BOMBS[name]()
    begun = time.thread_time()
    with suppress(ImageError):
        files = set(mosaic(data).colours.files)
        assert sum(map(len, files)) <= len(data) + 1000 * len(files)
    assert time.thread_time() - begun < 0.5 * slowness()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (b"jpeg", "HEIC in JPEG"),
        (b"avc1", "HEIC in H.264"),
        (b"vvc1", "HEIC in H.266"),
        (b"j2k1", "HEIC in JPEG 2000"),
        (b"unci", "HEIC without compression"),
        (b"iovl", "HEIC made from overlaid pictures"),
        (b"iden", "HEIC made from another picture"),
        (b"tmap", "HEIC of kind tmap"),
        (b"\xff\n\0<", r"HEIC of kind \xff\n\x00<"),
    ],
)
def test_unsupported_kind_of_item_is_refused_by_name(kind: bytes, name: str) -> None:
    item = Item(kind, b"x", [ispe(64, 64)])
    check(UnsupportedImage, f"{name} is not supported; save it as JPEG", item)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ([(b"teSt", b"")], UnsupportedImage, "HEIC with the property teSt is not supported"),
        ([nclx(1, 13, 14)], UnsupportedImage, "HEIC with colours in matrix 14"),
        ([nclx(1, 13, 0, full_range=False)], UnsupportedImage, "HEIC with colours in matrix 0"),
        ([clap((63, 1), (64, 1), (0, 1), (0, 1))], InvalidImage, "not a whole number of pixels"),
        ([clap((64, 1), (66, 1), (0, 1), (0, 1))], InvalidImage, "crop is not inside the picture"),
        ([clap((64, 1), (64, 1), (1, 1), (0, 1))], InvalidImage, "crop is not inside the picture"),
        ([clap((0, 1), (64, 1), (0, 1), (0, 1))], InvalidImage, "crop is not inside the picture"),
        ([clap((64, 0), (64, 1), (0, 1), (0, 1))], InvalidImage, "crop is not a number of pixels"),
        ([(b"clap", b"\0")], InvalidImage, "a box ends too early"),
        (
            [(b"irot", b"\1"), clap((64, 1), (64, 1), (0, 1), (0, 1))],
            UnsupportedImage,
            "HEIC that is cropped after a rotation",
        ),
    ],
)
def test_unsupported_property_is_refused_by_name(
    change: list[Property], error: type[ImageError], message: str
) -> None:
    item = tile()
    check(error, message, replace(item, properties=[*item.properties[:2], *change]))


def test_property_that_is_not_essential_is_ignored() -> None:
    item = tile().plus((b"abcd", b"x"), (b"pasp", bytes(8)))
    assert mosaic(Heif([item]).data()) == mosaic(Heif([tile()]).data())


def in_grid(*tiles: Item, size: tuple[int, int] = (128, 64), columns: int = 2) -> Heif:
    rows = max(1, len(tiles) // columns)
    return Heif([grid(rows, columns, size, range(2, 2 + len(tiles))), *tiles])


def test_tiles_must_fit_their_grid() -> None:
    two = tile(), tile()
    assert mosaic(in_grid(*two).data()).colours.columns == 2
    assert mosaic(in_grid(*two, size=(65, 1)).data())
    other = coded(picture(128, 64), "HEIF")
    for file, message in (
        (in_grid(*two, size=(64, 64)), "its tiles do not fill its picture"),
        (in_grid(*two, size=(129, 64)), "its tiles do not fill its picture"),
        (in_grid(*two, size=(128, 65)), "its tiles do not fill its picture"),
        (in_grid(tile(), other), "its tiles differ in size or kind"),
        (in_grid(tile(), tile("AVIF")), "its tiles differ in size or kind"),
        (in_grid(tile()), "its grid has another size than its picture"),
        (in_grid(tile(), tile(), tile()), "its grid has another size than its picture"),
        (Heif([grid(1, 1, (64, 64), [9]), tile()]), "with tiles that are not pictures"),
        (Heif([grid(1, 1, (64, 64), [1])]), "with tiles that are not pictures"),
    ):
        with pytest.raises((InvalidImage, UnsupportedImage), match=message):
            mosaic(file.data())
    with pytest.raises(UnsupportedImage, match="tiles that are cropped or rotated"):
        mosaic(in_grid(tile(), tile().plus((b"irot", b"\1"))).data())


def test_repeated_tile_is_decoded_and_counted_each_time() -> None:
    once = read_structure(in_grid(tile(), tile()).data(), "HEIF", MANY)
    data = Heif([grid(1, 2, (128, 64), [2, 2]), tile()]).data()
    twice = read_structure(data, "HEIF", MANY)
    assert twice.work["HEIC tile"] == once.work["HEIC tile"] == 2
    assert twice.work["HEIC sample"] == once.work["HEIC sample"]
    assert preprocess(data, SPEC).shape == (32, 32, 3)


def test_transparency_of_another_size_is_refused() -> None:
    kind: Property = (b"auxC", bytes(4) + ALPHA)
    alpha = coded(Image.new("L", (128, 64)), "HEIF").plus(kind)
    alpha = replace(alpha, references=[(b"auxl", [1])])
    check(InvalidImage, "its transparency has another size", tile(), alpha)
    depth = tuple(
        (b"auxC", b"\0\0\0\0urn:depth\0") if one == kind else one for one in alpha.properties
    )
    assert mosaic(Heif([tile(), replace(alpha, properties=depth)]).data()).alpha is None


def test_items_may_lie_in_pieces() -> None:
    item = tile()
    whole = Heif([item]).data()
    start = whole.index(item.data)
    file = Heif([item], extents={1: [(0, 0)] * 3})
    moved = len(file.data()) - len(whole)
    half = len(item.data) // 2
    first, second = (start + moved, half), (start + moved + half, len(item.data) - half)
    file.extents = {1: [first, (9, 0), second]}
    assert mosaic(file.data()) == mosaic(whole)


def test_first_item_of_a_sequence_is_the_picture() -> None:
    others = [Image.new("RGB", (64, 48), colour) for colour in ("red", "blue")]
    data = encode(picture(), "AVIF", save_all=True, append_images=others)
    assert data[8:12] == b"avis"
    assert b"moov" in data
    assert len(mosaic(data).colours.files) == 1
    with pytest.raises(UnsupportedImage, match="AVIF without a still picture is not supported"):
        mosaic(data.replace(b"meta", b"free"))


def test_video_is_not_a_picture() -> None:
    check(UnsupportedImage, "HEIC without a still picture", tile(), handler=b"vide")


@pytest.mark.parametrize(("megapixels", "size"), [(12, (4032, 3024)), (48, (8064, 6048))])
def test_photo_of_a_phone_is_accepted(megapixels: int, size: tuple[int, int]) -> None:
    """In tiles of 512 x 512 with as many bytes as photos with much detail have."""
    encoded = read_structure(honest_grid(size, 512), "HEIF", MANY)
    encoded.work["HEIC byte"] += megapixels * 200_000
    assert len(encoded.mosaic.colours.files) == -(-size[0] // 512) * -(-size[1] // 512)  # type: ignore[union-attr]
    assert seconds(encoded.work) < (MAX_SECONDS if megapixels == 48 else MAX_SECONDS / 4)
    with pytest.raises(ImageTooLarge, match=f"the image is {size[0]} x {size[1]}"):
        read_structure(honest_grid(size, 512), "HEIF", 10_000_000)


def test_large_offsets_are_read() -> None:
    """With 64 bits, as for files over 4 GB, and boxes with 64-bit lengths."""
    data = Heif([tile()]).data()
    place = data.index(b"mdat") - 4
    length = struct.unpack_from(">I", data, place)[0]
    longer = data[:place] + struct.pack(">I4sQ", 1, b"mdat", length + 8) + data[place + 8 :]
    iloc = longer.index(b"iloc")
    start = struct.unpack_from(">I", longer, iloc + 20)[0]
    longer = longer[: iloc + 20] + struct.pack(">I", start + 8) + longer[iloc + 24 :]
    assert mosaic(longer) == mosaic(data)
