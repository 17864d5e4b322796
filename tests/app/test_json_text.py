"""Parsing of JSON in steps: lifted strings and numbers keep their values."""

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, FailFast

from app.http.bodies import json_text, number_text
from app.http.bodies.json_text import Lifted, Text, parse_json, restore
from app.serving.errors import BadRequest
from app.serving.side_thread import finish

pytestmark = pytest.mark.one_process("about request bodies")

PIECE = 16


@pytest.fixture(autouse=True, scope="module")
def small_pieces() -> Iterator[None]:
    """Pieces so small that a short text has several."""
    patch = pytest.MonkeyPatch()
    patch.setattr(json_text, "PIECE", PIECE)
    patch.setattr(number_text, "PIECE", 4 * PIECE)  # the comma is surrounded by white space
    patch.setattr(json_text, "SMALL", PIECE)
    patch.setattr(json_text, "LONG_STRING", 10)
    patch.setattr(json_text, "LONG_NUMBERS", 10)
    yield
    patch.undo()


class Tensor(BaseModel):
    data: list[Any] | None = None
    image: str | None = None


class Whole(BaseModel):
    inputs: Annotated[list[Tensor], FailFast()]
    name: Text = ""
    more: Annotated[Any, AfterValidator(restore)] = None


def read(text: bytes) -> list[Any]:
    """The data or image of each input, with numbers flattened."""
    body, lifted = finish(parse_json(Whole, text, "not a body"))
    found: list[Any] = []
    for one in body.inputs:
        numbers = lifted.numbers(one.data or [])
        if numbers is not None:
            found.append(numbers.tolist())
        elif one.data is not None:
            found.append(
                [each if not isinstance(each, str) else take(lifted, each) for each in one.data]
            )
        else:
            found.append(None if one.image is None else take(lifted, one.image))
    return found


def take(lifted: Lifted, text: str) -> str:
    return "".join(lifted.string(text))


def flat(values: Any) -> list[Any]:
    return [x for value in values for x in flat(value)] if isinstance(values, list) else [values]


NUMBERS = st.one_of(
    st.integers(-(2**20), 2**20), st.floats(width=32, allow_nan=False, allow_infinity=False)
)
STRINGS = st.text(st.one_of(st.characters(codec="ascii"), st.sampled_from('\\"/é€')), max_size=80)


@given(
    st.lists(st.lists(NUMBERS, min_size=1, max_size=9), min_size=1, max_size=30),
    st.booleans(),
    st.sampled_from([None, 1]),
)
def test_lifted_numbers_equal_those_of_the_text(
    rows: list[list[Any]], nested: bool, indent: int | None
) -> None:
    data = rows if nested else flat(rows)
    text = json.dumps({"inputs": [{"data": data}, {"image": "end"}]}, indent=indent).encode()
    found, end = read(text)
    assert flat(found) == [float(x) for x in flat(rows)]
    assert end == "end"


@given(st.lists(STRINGS, max_size=8), st.booleans())
def test_lifted_strings_equal_those_of_the_text(strings: list[str], ascii_only: bool) -> None:
    text = json.dumps(
        {"inputs": [{"image": each} for each in strings] + [{"data": strings}]},
        ensure_ascii=ascii_only,
    )
    if any(len(each.encode()) > PIECE // 6 and not each.isascii() for each in strings):
        with suppress(BadRequest):  # long strings are cut into pieces; images are ASCII
            assert read(text.encode()) == [*strings, strings]
    else:
        assert read(text.encode()) == [*strings, strings]


@given(st.text('{}[]",:01e.- \\tnul', max_size=60))
def test_invalid_json_is_refused(middle: str) -> None:
    text = '{"inputs": [{"data": [0.0, 1.0, 2.0, ' + middle + "]}]}"
    try:
        whole = json.loads(text)
    except ValueError:
        whole = None
    try:
        found = read(text.encode())
    except BadRequest:
        return
    assert whole is not None
    assert len(found) == len(whole["inputs"])


@pytest.mark.parametrize(
    "data",
    [
        "[1, 2, 3, 4, 5, 6, 7, 8, 9, ]",
        "[1, 2, 3, 4, 5, 6, 7, 8, , 9]",
        "[1, 2, 3, 4, 5, 6, 7, 8,          , 9]",
        "[[1, 2, 3], 4, 5, 6, 7, 8], 9]]",
        "[[1, 2, 3], [4, 5, 6, 7, 8, 9]",
        "[1, 2, 3, 4 5, 6, 7, 8, 9, 0]",
        "[1, 2, 3, 4, 5, 6, true, 8, 9, 0]",
        "[1, 2, 3, 4, 5, 6, NaN, 8, 9, 0]",
        "[1, 2, 3, 4, 5, 6, null, 8, 9, 0]",
        "[1, 2, 3, 4, 5, 6, 1e, 8, 9, 0]",
        "[1, 2, 3, 4, 5, 6, 01, 8, 9, 0]",
        "[1, 2, 3, 4, 5, 6, [], 8, 9, 0]",
        "[" * 40 + "1, 2, 3, 4, 5, 6, 7, 8, 9" + "]" * 40,
    ],
)
def test_invalid_list_of_numbers_is_refused(data: str) -> None:
    text = '{"inputs": [{"data": ' + data + "}]}"
    with pytest.raises(BadRequest):
        read(text.encode())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"inputs": [{"image": "aaaaaaaaaaaaaaaaaaaaa', "a string is malformed or not closed"),
        (
            rb'{"inputs": [{"image": "aaaaaaaaaaaaaaaa\u12"}]}',
            "a string is malformed or not closed",
        ),
        (b'{"inputs": [{"image": "aaaaaaaaaaaaaaaa\\', "a string is malformed or not closed"),
        (
            b'{"inputs": [{"image": "aaaaaaaaaaaa\naaaaaaa"}]}',
            "a string contains an invalid character",
        ),
        (b'{"inputs": [], "name": "%b"}' % (b"a" * 1001), "name: String should have at most 1000"),
        (b'{"inputs": [], "name": "%b"}' % (b"a" * 9000), "name: String should have at most 1000"),
        (b'{"inputs": [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3]}', "inputs.0: must be"),
        (b'{"inputs": [{"image": "aaaaaaaaaaaaaaaaaaa"} {}]}', "Invalid JSON: expected `,` or `]`"),
        ('{"inputs": []}'.encode("utf-16"), "it is UTF-16; send UTF-8"),
    ],
)
def test_message_names_the_mistake(text: bytes, message: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read(text)
    assert message in caught.value.detail
    assert "line 1 column" not in caught.value.detail


def test_tokens_cannot_be_guessed() -> None:
    text = json.dumps({"inputs": [{"image": "a" * 20}, {"image": ".0"}, {"data": [":0"]}]})
    assert read(text.encode()) == ["a" * 20, ".0", [":0"]]


def test_long_strings_that_are_not_images_are_restored() -> None:
    long = "more than ten bytes, and than sixteen"
    text = json.dumps({"inputs": [], "name": long, "more": {"a": {"b": long, long: "short"}}})
    body, _ = finish(parse_json(Whole, text.encode(), "not a body"))
    assert body.name == long
    assert body.more == {"a": {"b": long, long: "short"}}


def test_rest_of_a_text_is_limited_by_the_number_of_rows() -> None:
    text = b'{"inputs": [%b{}]}' % (b'{"a":0},' * 4_000)
    with pytest.raises(
        BadRequest, match="it has over 16,504 bytes apart from images and tensor data"
    ):
        finish(parse_json(Whole, text, "not a body"))
    body, _ = finish(parse_json(Whole, text, "not a body", rows=1_000))
    assert len(body.inputs) == 4_001
