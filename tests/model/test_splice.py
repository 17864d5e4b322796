"""Joining bytes of any sizes in pieces."""

from hypothesis import given
from hypothesis import strategies as st

from model.images.structure.splice import PIECE, splice

SIZES = st.lists(st.sampled_from([0, 1, 7, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5]), max_size=5)


@given(SIZES, st.sampled_from([bytes, bytearray, memoryview]))
def test_parts_are_joined_in_order(sizes: list[int], kind: type) -> None:
    parts = [bytes(range(256)) * (size // 256) + bytes(range(size % 256)) for size in sizes]
    assert splice(*map(kind, parts)) == b"".join(parts)
