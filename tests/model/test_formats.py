"""The list of formats, and every place that names formats."""

import base64
import re
from pathlib import Path

import pytest

from app.http.app import create_app
from app.http.bodies.base64_text import begins_as_base64
from model.errors import UnsupportedImage
from model.evaluation.dataset import load_dataset
from model.images import heic
from model.images.formats import FORMATS, MEDIA_TYPES, NAMES, SUFFIXES, Format, sniff_format
from model.images.preprocess import preprocess
from model.spec import PreprocessSpec
from tests.app.conftest import FakeClassifier, make_settings
from tests.hostile import HostileFile, encode, kinds, picture, write, written_by_hand

ROOT = Path(__file__).parents[2]
SPEC = PreprocessSpec(image_size=32)
FILES = [*map(write, kinds()), *written_by_hand()]
LATER = [one for one in FORMATS if one.key in ("AVIF", "HEIF")]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_format_is_recognised_by_its_first_bytes(file: HostileFile) -> None:
    name = file.name.split()[0].replace("MPO", "JPEG")
    assert sniff_format(file.data[:64]) == name
    assert begins_as_base64(base64.b64encode(file.data))
    assert not begins_as_base64(file.data)


@pytest.mark.parametrize("one", LATER, ids=lambda one: one.name)
def test_every_brand_is_recognised(one: Format) -> None:
    for brand in one.brands:
        assert sniff_format(b"\0\0\0\x10ftyp" + brand + b"\0\0\0\0") == one.key
        other = b"\0\0\0\x1cftypabcd\0\0\0\0efgh" + brand + b"ijkl"
        assert sniff_format(other) == one.key
        with pytest.raises(UnsupportedImage):
            sniff_format(b"\0\0\0\x14ftypabcd\0\0\0\0efgh" + brand)  # beyond the box


def test_both_brands_are_avif() -> None:
    assert sniff_format(b"\0\0\0\x18ftypmif1\0\0\0\0heicavif") == "AVIF"


def test_page_offers_every_format() -> None:
    page = (ROOT / "app/http/page/index.html").read_text()
    (accepted,) = re.findall(r'accept="(image/jpeg,[^"]+)"', page)
    # Some systems know no media type of the later formats.
    suffixes = [suffix for one in LATER for suffix in one.suffixes]
    assert re.split(r",\s*", accepted) == [*MEDIA_TYPES, *suffixes]


def test_openapi_document_names_every_format() -> None:
    document = create_app(make_settings(), FakeClassifier, environ={}).openapi()
    assert NAMES in document["paths"]["/predict"]["post"]["description"]


def test_documents_name_every_format() -> None:
    rows = re.findall(r"^\| (\w+) \|", (ROOT / "docs/reference/images.md").read_text(), re.M)
    assert rows[1 : 1 + len(FORMATS)] == [one.name for one in FORMATS]
    assert NAMES in " ".join((ROOT / "README.md").read_text().split())


def test_data_sets_may_have_every_format(tmp_path: Path) -> None:
    for one in FORMATS:
        folder = tmp_path / "val" / one.name
        folder.mkdir(parents=True)
        for suffix in one.suffixes:
            (folder / f"a{suffix.upper()}").write_bytes(encode(picture(), one.key))
    dataset = load_dataset(tmp_path, "val", SPEC, quiet=True)
    assert len(dataset) == len(SUFFIXES)
    assert set(dataset.labels) == {one.name for one in FORMATS}


def test_suffixes_are_in_lower_case() -> None:
    assert all(re.fullmatch(r"\.[a-z]+", suffix) for suffix in SUFFIXES)


def test_heic_without_its_package_is_refused_with_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heic, "pillow_heif", None)
    with pytest.raises(UnsupportedImage, match=r"pillow-heif.*pip install 'xcit-serve\[heif\]'"):
        preprocess(encode(picture(), "HEIF"), SPEC)
    assert preprocess(encode(picture(), "AVIF"), SPEC).any()


def test_avif_without_its_library_is_refused_with_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = encode(picture(), "AVIF")
    monkeypatch.setattr("PIL.AvifImagePlugin.SUPPORTED", False)
    with pytest.raises(UnsupportedImage, match=r"Pillow does not read AVIF.*pip install"):
        preprocess(data, SPEC)
