"""The connections that are closed or refused at the limit."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.server.connection_limit import (
    LOG_INTERVAL,
    MAX_CONNECTIONS,
    MIN_CONNECTIONS,
    RESERVE,
    SPARE_FILES,
    ConnectionLimit,
    choose_bound,
)


class FakeConnection:
    def __init__(self) -> None:
        self.evicted = False

    def evict(self) -> None:
        self.evicted = True


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def fill(limit: ConnectionLimit, count: int, *, busy: bool) -> list[FakeConnection]:
    connections = [FakeConnection() for _ in range(count)]
    for connection in connections:
        assert limit.enter(connection)
        if busy:
            limit.busy(connection)
    return connections


def test_longest_idle_connection_is_closed_at_the_limit() -> None:
    limit = ConnectionLimit(most=3, reserve=1)
    first, second, third = fill(limit, 3, busy=False)
    limit.busy(first)
    limit.idle(first)  # the last one to become idle
    assert limit.enter(FakeConnection())
    assert (first.evicted, second.evicted, third.evicted) == (False, True, False)
    assert limit.enter(FakeConnection())
    assert (first.evicted, third.evicted) == (False, True)


def test_connection_is_refused_when_all_others_are_busy() -> None:
    refused: list[None] = []
    limit = ConnectionLimit(most=5, reserve=2, on_refused=lambda: refused.append(None))
    busy = fill(limit, 5, busy=True)
    assert refused == []
    one_more = FakeConnection()
    assert not limit.enter(one_more)
    assert one_more not in limit
    assert len(refused) == 1
    assert not any(connection.evicted for connection in busy)
    limit.leave(busy[0])
    assert limit.enter(FakeConnection())


def test_requests_with_a_body_leave_the_reserve_free() -> None:
    limit = ConnectionLimit(most=5, reserve=2)
    *busy, idle = fill(limit, 3, busy=True)
    assert not limit.has_room_for_body(fill(limit, 1, busy=False)[0])
    assert limit.has_room_for_body(busy[0]), "it is counted already"
    limit.idle(idle)
    assert limit.has_room_for_body(idle)


def test_limit_is_logged_once_per_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    limit = ConnectionLimit(most=1, reserve=0, clock=clock)
    for seconds, lines in ((0, 1), (1, 1), (LOG_INTERVAL - 1.5, 1), (1, 2), (0, 2)):
        clock.now += seconds
        limit.enter(FakeConnection())
        limit.enter(FakeConnection())
        assert len(caplog.records) == lines
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert "ulimit -n" in caplog.text


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["enter", "busy", "idle", "leave"]), st.integers(0, 30)), max_size=200
)


@given(st.integers(1, 8), ACTIONS)
def test_limit_holds_for_any_sequence_of_events(most: int, actions: list[tuple[str, int]]) -> None:
    """The limit holds, no busy connection is closed, and none is refused while one is idle."""
    limit = ConnectionLimit(most, reserve=1)
    open_: list[FakeConnection] = []
    busy: set[FakeConnection] = set()
    for action, number in actions:
        if action == "enter":
            connection = FakeConnection()
            entered = limit.enter(connection)
            assert entered or busy == set(open_)
            assert not any(other.evicted for other in busy)
            open_ = [other for other in open_ if not other.evicted]
            if entered:
                open_.append(connection)
        elif open_:
            connection = open_[number % len(open_)]
            if action == "leave":
                open_.remove(connection)
            getattr(limit, action)(connection)
            (busy.add if action == "busy" else busy.discard)(connection)
        assert len(limit) == len(open_) <= most


@given(st.integers(0, 100_000), st.integers(0, 1000))
def test_limit_leaves_files_for_other_uses(max_open_files: int, open_files: int) -> None:
    most, reserve = choose_bound(max_open_files, open_files)
    assert MIN_CONNECTIONS <= most <= MAX_CONNECTIONS
    assert 1 <= reserve <= min(RESERVE, most // 2)
    if max_open_files - open_files - SPARE_FILES >= MIN_CONNECTIONS:
        assert most + open_files + SPARE_FILES <= max_open_files
