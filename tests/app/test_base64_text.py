"""Decoding of base64 in steps, compared with Python's decoder."""

import base64
import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.http.bodies import base64_text
from app.http.bodies.base64_text import decode_base64
from app.serving.errors import BadRequest
from app.serving.side_thread import finish

pytestmark = pytest.mark.one_process("about request bodies")

PIECE = 8


@pytest.fixture(autouse=True, scope="module")
def small_pieces() -> Iterator[None]:
    """Pieces so small that a short text has several."""
    patch = pytest.MonkeyPatch()
    patch.setattr(base64_text, "PIECE", PIECE)
    yield
    patch.undo()


def decode(text: str, piece: int = PIECE) -> bytes:
    return finish(decode_base64(text[i : i + piece] for i in range(0, len(text), piece)))


CONTENT = st.binary(max_size=100)


@given(CONTENT, st.sampled_from(["standard", "url"]), st.booleans(), st.integers(3, 20))
def test_both_alphabets_with_and_without_padding(
    content: bytes, alphabet: str, padded: bool, piece: int
) -> None:
    encode = base64.b64encode if alphabet == "standard" else base64.urlsafe_b64encode
    text = encode(content).decode()
    assert decode(text if padded else text.rstrip("="), max(piece, 1)) == content


BLANKS = st.sampled_from(("\t", "\r\n", "\n", "\n    ", " \n"))


@given(CONTENT, st.lists(st.tuples(st.integers(0, 150), BLANKS), max_size=9))
def test_line_breaks_and_indentation_are_ignored(
    content: bytes, blanks: list[tuple[int, str]]
) -> None:
    text = base64.b64encode(content).decode()
    for place, blank in blanks:
        text = text[:place] + blank + text[place:]
    assert decode(text) == content


WELL_FORMED = re.compile(r"([\w+/]{4})*([\w+/]{2}(==)?|[\w+/]{3}=?)?", re.ASCII)


@given(st.text("ABab01+/=%é\0", max_size=40))
def test_incomplete_groups_and_wrong_padding_are_refused(text: str) -> None:
    if WELL_FORMED.fullmatch(text):
        assert decode(text) == base64.b64decode(text.rstrip("=") + "==")
    else:
        with pytest.raises(BadRequest, match="not valid base64"):
            decode(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data:image/png,abc", "must begin like data:image/jpeg;base64,"),
        ("data:image/png;base64", "must begin like"),
        ("data:" + "x" * 300 + ";base64,MQ==", "must begin like"),
        ("=", "its length is wrong"),
        ("MQ=", "its length is wrong"),
        ("M", "its length is wrong"),
        ("MQ==MQ==", "it contains the character '='"),
        ("MQ M", "it contains spaces, probably from unescaped +"),
        ("M\x1bQ=", "it contains the character '\N{REPLACEMENT CHARACTER}'"),
    ],
)
def test_message_names_the_mistake(text: str, message: str) -> None:
    with pytest.raises(BadRequest) as caught:
        decode(text, 10_000)
    assert message in caught.value.detail


@pytest.mark.parametrize("head", ["data:image/png;base64,", "DATA:;Base64,", "data:a;b=c;base64,"])
def test_data_uri_is_decoded(head: str) -> None:
    assert decode(head + "MQ==", 10_000) == b"1"
