"""Draw examples/ship.jpg, the photo of the quickstart: a freighter at sea.

python scripts/sample_photo.py examples/ship.jpg
"""

import random
import sys
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter

WIDTH, HEIGHT = 480, 480
HORIZON = 270

Colour = tuple[int, int, int]


def gradient(top: Colour, bottom: Colour, height: int) -> Image.Image:
    """A vertical gradient between two colours."""
    strip = Image.new("RGB", (1, 2))
    strip.putdata([top, bottom])
    return strip.resize((WIDTH, height), Image.Resampling.BILINEAR)


def grain(height: int, strength: float, squeeze: int) -> Image.Image:
    """Noise like waves or film grain, the same at each call, in streaks of ``squeeze`` rows."""
    size = (WIDTH // 4, height // squeeze)
    dots = random.Random(0).randbytes(size[0] * size[1])  # noqa: S311, nothing secret
    noise = Image.frombytes("L", size, dots).resize((WIDTH, height))
    return noise.point(lambda level: int(strength * level)).convert("RGB")


def draw() -> Image.Image:
    """The whole picture: sky, sea, ship, and the blur and grain of a camera."""
    picture = gradient((150, 185, 220), (215, 228, 238), HEIGHT)
    sea = gradient((70, 105, 135), (30, 60, 90), HEIGHT - HORIZON)
    picture.paste(ImageChops.add(sea, grain(HEIGHT - HORIZON, 0.16, 3)), (0, HORIZON))
    pen = ImageDraw.Draw(picture)
    pen.polygon([(48, 248), (440, 248), (416, 322), (84, 322)], (60, 36, 40))
    pen.polygon([(78, 306), (421, 306), (416, 322), (84, 322)], (140, 50, 40))
    pen.rectangle((48, 240, 440, 249), (205, 205, 200))
    pen.rectangle((96, 150, 176, 240), (236, 236, 230))
    pen.rectangle((104, 128, 160, 152), (222, 222, 216))
    pen.rectangle((116, 84, 144, 130), (50, 70, 110))
    pen.rectangle((116, 84, 144, 94), (190, 60, 45))
    for row in (164, 188, 212):
        for column in range(104, 170, 14):
            pen.rectangle((column, row, column + 7, row + 8), (70, 90, 110))
    for place, colour in enumerate(
        ((170, 80, 50), (60, 100, 130), (190, 160, 70), (110, 120, 110))
    ):
        pen.rectangle((196 + 52 * place, 206, 242 + 52 * place, 240), colour)
    for mast in (250, 350):
        pen.rectangle((mast, 116, mast + 5, 240), (205, 190, 150))
        pen.line((mast + 2, 130, mast + 60, 190), (120, 115, 100), 3)
    pen.line((60, 326, 430, 326), (200, 214, 222), 5)
    picture = picture.filter(ImageFilter.GaussianBlur(1.2))
    return ImageChops.add(picture, grain(HEIGHT, 0.06, 1), 1.0, -8)


if __name__ == "__main__":
    draw().save(Path(sys.argv[1]), quality=85)
