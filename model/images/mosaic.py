"""Assembling the picture of a HEIF file from its decoded tiles and its transparency."""

from PIL import Image

from model.errors import InvalidImage
from model.images.avif import decode_avif
from model.images.heic import decode_heic
from model.images.structure import Mosaic, Tiles

# libheif leaves grey levels as they are.
_FROM_VIDEO_RANGE = [min(255, max(0, round((level - 16) * 255 / 219))) for level in range(256)]


def decode_mosaic(mosaic: Mosaic) -> Image.Image:
    """Decode all tiles.

    Raises:
        UnsupportedImage: the package that decodes them is missing.
        InvalidImage: a tile has another size than its headers.
        DECODER_ERRORS: the data is corrupt.
    """
    image = _assemble(mosaic.colours)
    if mosaic.alpha:
        alpha = _assemble(mosaic.alpha).getchannel(0)
        if mosaic.premultiplied:
            colours = image.convert("RGB").split()
            image = Image.merge("RGBa", (*colours, alpha)).convert("RGBA")
        else:
            image.putalpha(alpha)
    return image.crop(mosaic.crop) if mosaic.crop else image


def _assemble(tiles: Tiles) -> Image.Image:
    first = _decode(tiles, tiles.files[0])
    if first.size == tiles.size:
        return first
    whole = Image.new(first.mode, tiles.size)
    whole.paste(first)
    width, height = tiles.tile
    for number, file in enumerate(tiles.files[1:], 1):
        row, column = divmod(number, tiles.columns)
        whole.paste(_decode(tiles, file), (column * width, row * height))
    return whole


def _decode(tiles: Tiles, file: bytes) -> Image.Image:
    image = decode_heic(file, tiles.bits) if tiles.hevc else decode_avif(file)
    if image.size != tiles.tile:
        raise InvalidImage("the picture has another size than its header")
    return image.point(_FROM_VIDEO_RANGE) if tiles.black_is_16 else image
