"""The headers of AV1 and HEVC: sizes, frames, layers, parameter sets, slices."""

from dataclasses import replace

import pytest
from PIL import Image

from model.errors import ImageError, ImageTooLarge, InvalidImage, UnsupportedImage
from model.images.preprocess import preprocess
from model.images.structure import read_structure
from model.spec import PreprocessSpec
from tests.hostile import Kind, encode, picture, write
from tests.hostile.bitstreams import av1, configuration, hevc, obu, picture_set, unit, with_length
from tests.hostile.heif import Heif, Property, ispe, walk

from .heifs import KINDS, MANY, check, mosaic, tile

SPEC = PreprocessSpec(image_size=32)


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
