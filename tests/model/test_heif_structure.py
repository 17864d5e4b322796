"""The structure of HEIF files: accepted and refused kinds, limits, and the decoder's file."""

import re
import struct
import time
from contextlib import suppress
from dataclasses import replace

import pytest
from PIL import Image

from model.errors import ImageError, ImageTooLarge, InvalidImage, UnsupportedImage
from model.images.formats import sniff_format
from model.images.preprocess import preprocess
from model.images.structure import Mosaic, read_structure
from model.images.structure.work import MAX_SECONDS, seconds
from model.spec import PreprocessSpec
from tests.hostile import Kind, encode, kinds, picture, write
from tests.hostile.bitstreams import av1, configuration, hevc, obu, picture_set, unit, with_length
from tests.hostile.heif import ALPHA, Heif, Item, Property, clap, coded, grid, ispe, nclx, walk
from tests.hostile.heif_bombs import HEIF_BOMBS, honest_grid
from tests.yardstick import slowness

SPEC = PreprocessSpec(image_size=32)
MANY = 50_000_000
KINDS = [kind for kind in kinds() if kind.image_format in ("AVIF", "HEIF")]
BOTH = pytest.mark.parametrize("image_format", ["AVIF", "HEIF"])


def tile(image_format: str = "HEIF") -> Item:
    return coded(picture(64, 64), image_format)


def mosaic(data: bytes) -> Mosaic:
    found = read_structure(data, sniff_format(data), MANY).mosaic
    assert found
    return found


def check(error: type[ImageError], message: str, *items: Item, **others: bytes) -> None:
    """That reading a file of these items fails."""
    with pytest.raises(error, match=re.escape(message)):
        mosaic(Heif(items, **others).data())  # type: ignore[arg-type]


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


@pytest.mark.parametrize(
    "kind", [k for k in KINDS if k.image_format == "AVIF"], ids=lambda kind: kind.name
)
def test_configuration_of_av1_is_that_of_the_encoder(kind: Kind) -> None:
    data = write(kind).data
    configurations = [content[:4] for name, content in walk(data) if name == b"av1C"]
    found = mosaic(data)
    files = [*found.colours.files, *(found.alpha.files if found.alpha else ())]
    assert [dict(walk(file))[b"av1C"] for file in files] == configurations


def test_siting_of_chroma_is_kept() -> None:
    for siting in (0, 1, 2):
        (file,) = mosaic(Heif([av1((64, 64), b"x" * 9, siting=siting)]).data()).colours.files
        assert dict(walk(file))[b"av1C"] == bytes((0x81, 0x1F, 0x0C | siting, 0))


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


def test_size_of_the_coded_picture_counts() -> None:
    declared = "its picture has another size than declared"
    check(InvalidImage, declared, hevc((128, 64), b"x", shown=(64, 64)))
    check(InvalidImage, declared, av1((128, 64), b"x" * 9, shown=(64, 64)))
    check(
        ImageTooLarge, "the image is 8192 x 8192", hevc((8192, 8192), b"x", crop=(0, 4064, 0, 4064))
    )
    check(ImageTooLarge, "at most 32768 in a side", av1((40_000, 64), b"x" * 9))
    check(InvalidImage, "its picture has no pixels", hevc((64, 64), b"x", crop=(0, 32, 0, 0)))
    item = tile()
    check(InvalidImage, "its picture has no pixels", replace(item, properties=[ispe(0, 64)]))
    check(InvalidImage, "lacks the box ispe", replace(item, properties=item.properties[:1]))
    check(InvalidImage, "lacks the box hvcC", replace(item, properties=[ispe(64, 64)]))


def test_cropped_hevc_has_the_shown_size() -> None:
    found = mosaic(Heif([hevc((128, 64), b"x", crop=(1, 2, 3, 4))]).data()).colours
    assert (found.size, found.tile) == ((122, 50), (122, 50))


@pytest.mark.parametrize("bits", [14, 16])
def test_too_many_bits_are_refused_by_name(bits: int) -> None:
    message = f"HEIC with samples of {bits} and {bits} bits is not supported"
    check(UnsupportedImage, message, hevc((64, 64), b"x", bits=bits))


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


def frames_of(data: bytes) -> list[bytes]:
    """The frames of an AVIF sequence, each with its headers."""
    content = dict(walk(data))[b"mdat"]
    return [b"\x12\0" + part for part in content.split(b"\x12\0")[1:]]


def test_hidden_frames_of_avif_are_refused() -> None:
    others = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    first, second, *_ = frames_of(
        encode(picture(64, 64), "AVIF", save_all=True, append_images=others)
    )
    alone = replace(tile("AVIF"), data=first)
    assert preprocess(Heif([alone]).data(), SPEC).any()
    for content, message in (
        (first + second, "in several layers or frames"),
        (first[:-1], "ends too early"),
        (first[:14], "it has no picture|ends too early"),
        (second, "it has no picture|whose first frame"),
        (first + obu(1, b"abc"), "in several sequences"),
        (first + b"\xff", "corrupt"),
    ):
        with pytest.raises((InvalidImage, UnsupportedImage), match=message):
            mosaic(Heif([replace(alone, data=content)]).data())


def test_metadata_in_av1_is_dropped() -> None:
    item = tile("AVIF")
    metadata = obu(5, b"secret") + obu(15, bytes(100)) + obu(2, b"")
    plain = mosaic(Heif([item]).data()).colours.files
    assert mosaic(Heif([replace(item, data=metadata + item.data)]).data()).colours.files == plain


def test_flipped_bits_of_a_frame_header_never_change_the_size() -> None:
    """A frame may say that it has another size than its sequence, which would be allocated."""
    others = [Image.new("RGB", (64, 64), "red")]
    first = frames_of(encode(picture(64, 64), "AVIF", save_all=True, append_images=others))[0]
    place = 4 + first[3] + 3  # after a delimiter, the sequence header, and the head of the frame
    told = set()
    for bit in range(8 * place, 8 * place + 24):
        data = bytearray(first)
        data[bit // 8] ^= 128 >> bit % 8
        try:
            preprocess(Heif([replace(tile("AVIF"), data=bytes(data))]).data(), SPEC)
        except ImageError as error:
            told.add(str(error))
    assert any("whose frame has another size than its sequence" in text for text in told)
    assert any("whose first frame is not a picture in itself" in text for text in told)


def test_units_of_other_layers_and_metadata_in_hevc_are_dropped() -> None:
    """Photos for two eyes have a second layer, which the decoder would read."""
    item = tile()
    extra = with_length(unit(39, b"secret"), unit(19, b"\x80abc", layer=1), unit(35, b"x"))
    plain = mosaic(Heif([item]).data()).colours.files
    assert mosaic(Heif([replace(item, data=extra + item.data)]).data()).colours.files == plain


def test_frames_of_hevc_that_depend_on_others_are_refused() -> None:
    item = hevc((64, 64), b"x")
    for data, message in (
        (item.data * 2, "HEIC in several frames is not supported"),
        (with_length(unit(1, b"\x80abc")), "HEIC whose first frame is not a picture in itself"),
        (with_length(unit(39, b"x")), "it has no picture"),
        (item.data[:-1], "a box ends too early"),
        (with_length(b"\x26"), "a unit of its HEVC data ends too early"),
    ):
        with pytest.raises((InvalidImage, UnsupportedImage), match=message):
            mosaic(Heif([replace(item, data=data)]).data())


def test_only_the_parameter_sets_of_the_picture_are_kept() -> None:
    item = hevc((64, 64), b"x")
    others = with_length(*(picture_set(number) for number in range(1, 60)))
    plain = mosaic(Heif([item]).data()).colours.files
    assert mosaic(Heif([replace(item, data=others + item.data)]).data()).colours.files == plain
    empty: Property = (b"hvcC", configuration())
    sets = dict(walk(Heif([item]).data()))[b"hvcC"][23:]
    listed = [sets[5 : 5 + int.from_bytes(sets[3:5], "big")]]
    listed.append(sets[5 + len(listed[0]) + 5 :])
    bare = replace(item, properties=[empty, ispe(64, 64)])
    check(InvalidImage, "it lacks a parameter set", bare)
    within = replace(bare, data=with_length(*listed) + item.data)
    assert mosaic(Heif([within]).data()).colours.files == plain


def test_parameter_sets_are_limited_because_each_tile_repeats_them() -> None:
    item = hevc((64, 64), b"x")
    larger = with_length(picture_set() + bytes(4096))
    check(
        ImageTooLarge, "over 4096 bytes of parameter sets", replace(item, data=larger + item.data)
    )


def test_declared_bits_of_hevc_do_not_count() -> None:
    """libheif allocates by the box; the decoder by the data."""
    item = hevc((64, 64), b"x", chroma=0, bits=10)
    found = mosaic(Heif([item]).data()).colours
    assert found.bits == 10
    content = dict(walk(found.files[0]))[b"hvcC"]
    assert content[16:19] == bytes((0xFC, 0xFA, 0xFA))
    assert preprocess(Heif([item]).data(), SPEC).shape == (32, 32, 3)


def test_slices_are_counted() -> None:
    item = hevc((512, 512), b"x")
    further = bytearray(item.data)
    further[6] &= 0x7F
    work = [
        read_structure(
            Heif([replace(item, data=item.data + bytes(further) * n)]).data(), "HEIF", MANY
        ).work
        for n in (0, 8)
    ]
    assert work[1]["HEIC sample"] == 2 * work[0]["HEIC sample"]


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
