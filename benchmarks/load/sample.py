"""A generated image, to send where none is given."""

import io
import random

_SIZE = (500, 375)  # width and height, typical of ImageNet
_GRAIN = 0.35


def sample_picture() -> bytes:
    """A JPEG that costs about as much to decode as a photo; the same bytes for the same Pillow."""
    from PIL import Image

    width, height = _SIZE
    shades = [Image.linear_gradient("L").rotate(angle).resize(_SIZE) for angle in (0, 90, 180)]
    dots = random.Random(0).randbytes(width * height // 4)
    grain = Image.frombytes("L", (width // 2, height // 2), dots).resize(_SIZE)
    picture = Image.blend(Image.merge("RGB", shades), grain.convert("RGB"), _GRAIN)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=94)
    return buffer.getvalue()
