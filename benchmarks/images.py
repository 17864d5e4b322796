"""Generate photo-like JPEGs from a seed, so that no photographs need to be stored.

    python -m benchmarks.images photos --count 64

The cost of decoding depends on pixels and coefficients, so both are those of a typical ImageNet
file: 500 x 375 pixels and about 110 KB. Noise at several scales gives shading and grain, and
overlapping shapes give edges; the grain differs between shapes, as in a photograph.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Floats = NDArray[np.float32]
Size = tuple[int, int]

SIZE = (500, 375)  # width, height
QUALITY = 94
SHAPES = 12
OCTAVES = range(1, 9)  # noise with cells of 2^1 to 2^8 pixels


def write_images(directory: Path, count: int, *, seed: int = 0) -> None:
    """Write ``0000.jpg`` and so on: the same bytes for the same seed and Pillow version."""
    directory.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        random = np.random.default_rng((seed, number))
        draw_photo(random).save(directory / f"{number:04}.jpg", quality=QUALITY)


def draw_photo(random: np.random.Generator, size: Size = SIZE) -> Image.Image:
    """A background with shapes in front of it, and sensor grain over everything."""
    photo = texture(random, size)
    for _ in range(SHAPES):
        photo.paste(texture(random, size), mask=shape_mask(random, size))
    grain = random.normal(0, random.uniform(5, 15), (size[1], size[0], 1))
    return Image.fromarray((np.asarray(photo) + grain).clip(0, 255).astype(np.uint8))


def texture(random: np.random.Generator, size: Size) -> Image.Image:
    """A colour shaded by noise; the smoother the surface, the weaker its fine octaves."""
    roughness = random.uniform(0.5, 0.95)
    shade = sum(
        octave_noise(random, 2**octave, size) * roughness ** (8 - octave) for octave in OCTAVES
    )
    colour = random.uniform(40, 215, 3)
    pixels = colour + 30 * np.asarray(shade)[..., None] * random.uniform(0.7, 1.3, 3)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def octave_noise(random: np.random.Generator, cell: int, size: Size) -> Floats:
    """Smooth noise ``(h, w)`` with a deviation of about 1 and cells of ``cell`` pixels."""
    width, height = size[0] // cell + 2, size[1] // cell + 2
    coarse = Image.fromarray(random.standard_normal((height, width), dtype=np.float32))
    return np.asarray(coarse.resize(size, Image.Resampling.BICUBIC))


def shape_mask(random: np.random.Generator, size: Size) -> Image.Image:
    """A polygon with few corners at a random place, with edges as sharp as a lens."""
    mask = Image.new("L", size)
    centre = random.uniform((0, 0), size)
    angles = np.sort(random.uniform(0, 2 * np.pi, random.integers(3, 9)))
    reach = random.uniform(20, 130, (len(angles), 1))
    corners = centre + reach * np.stack((np.cos(angles), np.sin(angles)), axis=1)
    ImageDraw.Draw(mask).polygon([(float(x), float(y)) for x, y in corners], fill=255)
    return mask.filter(ImageFilter.GaussianBlur(0.7))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.images", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--count", type=int, default=64, help="images to make [64]")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    write_images(args.directory, args.count, seed=args.seed)
    sizes = [path.stat().st_size for path in sorted(args.directory.glob("*.jpg"))]
    print(f"{len(sizes)} images of {SIZE[0]} x {SIZE[1]}, {np.mean(sizes) / 1e3:.0f} KB on average")


if __name__ == "__main__":
    main()
