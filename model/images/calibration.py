"""The cost of preparing a photo, measured on one that is made up."""

import io
import time
import timeit
from functools import partial

import numpy as np
from PIL import Image

from model.images.preprocess import preprocess
from model.spec import PreprocessSpec

WIDTH, HEIGHT = 500, 375  # as most of ImageNet
GRAIN = 14  # of 255; with it, a file of about 100 KB
TRIALS = 5


def preprocess_seconds(spec: PreprocessSpec) -> float:
    """Seconds of CPU time that a photo of usual size takes, the best of a few.

    The clock is the thread's own: time that other processes take is not in it.
    """
    work = partial(preprocess, make_photo(), spec)
    return min(timeit.repeat(work, timer=time.thread_time, number=1, repeat=TRIALS))


def make_photo() -> bytes:
    """A JPEG with soft colours and the grain of a sensor, always the same."""
    chance = np.random.default_rng(0)
    colours = Image.fromarray(chance.integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), np.uint8))
    soft = np.asarray(colours.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    pixels = soft + chance.normal(0, GRAIN, (HEIGHT, WIDTH, 1))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
