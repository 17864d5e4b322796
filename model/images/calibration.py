"""Measuring the cost of preprocessing, on a generated image."""

import io
import time
import timeit
from functools import partial

import numpy as np
from PIL import Image

from model.images.preprocess import preprocess
from model.spec import PreprocessSpec

WIDTH, HEIGHT = 500, 375  # typical of ImageNet
GRAIN = 14  # of 255; makes the file about 100 KB
TRIALS = 5
REQUEST_SECONDS = 1.1e-3  # CPU time per request apart from decoding and inference


def preprocess_seconds(spec: PreprocessSpec) -> float:
    """CPU seconds to preprocess an image of typical size, the best of several trials.

    The clock is that of the thread, so it excludes other processes.
    """
    work = partial(preprocess, calibration_image(), spec)
    return min(timeit.repeat(work, timer=time.thread_time, number=1, repeat=TRIALS))


def calibration_image() -> bytes:
    """A JPEG with soft colours and sensor grain; always the same bytes."""
    chance = np.random.default_rng(0)
    colours = Image.fromarray(chance.integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), np.uint8))
    soft = np.asarray(colours.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    pixels = soft + chance.normal(0, GRAIN, (HEIGHT, WIDTH, 1))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def request_seconds(spec: PreprocessSpec) -> float:
    """CPU seconds of a request with one image, apart from inference, by measurement."""
    return preprocess_seconds(spec) + REQUEST_SECONDS
