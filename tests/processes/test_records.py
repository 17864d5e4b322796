"""Records of requests in shared memory, from a worker to the supervisor."""

from hypothesis import given
from hypothesis import strategies as st

from app.processes.records import RING_BYTES, RecordRing


@given(st.lists(st.binary(max_size=RING_BYTES // 3) | st.none(), max_size=40))
def test_records_are_read_once_and_in_order_or_refused(steps: list[bytes | None]) -> None:
    memory = memoryview(bytearray(RING_BYTES))
    writer, reader = RecordRing(memory), RecordRing(memory)
    waiting: list[bytes] = []
    for record in steps:
        if record is None:
            assert [*reader.take()] == waiting
            waiting = []
        elif writer.put(record):
            waiting.append(record)
        else:
            used = sum(8 + len(each) for each in waiting)
            assert used + 8 + len(record) > RING_BYTES - 16
    assert [*reader.take()] == waiting
    assert not [*reader.take()]


def test_new_worker_continues_where_an_ended_one_stopped() -> None:
    memory = memoryview(bytearray(RING_BYTES))
    RecordRing(memory).put(b"one")
    RecordRing(memory).put(b"two")
    assert [*RecordRing(memory).take()] == [b"one", b"two"]


def test_record_that_has_not_arrived_yet_is_left() -> None:
    memory = memoryview(bytearray(RING_BYTES))
    writer, reader = RecordRing(memory), RecordRing(memory)
    writer.put(b"one")
    writer.put(b"two")
    last = 16 + 8 + 3 + 8  # the first byte of the second record
    memory[last] = ord("x")
    assert [*reader.take()] == [b"one"]
    assert [*reader.take()] == []
    memory[last] = ord("t")
    assert [*reader.take()] == [b"two"]
