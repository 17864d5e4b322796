"""The states of the process and their transitions."""

from itertools import product

import pytest

from app.serving.lifecycle import Lifecycle, State


def at(state: State) -> Lifecycle:
    lifecycle = Lifecycle()
    moves = {
        State.LOADING: [],
        State.READY: [lifecycle.become_ready],
        State.DRAINING: [lifecycle.become_ready, lifecycle.drain],
        State.FAILED: [lambda: lifecycle.fail("why")],
    }
    for move in moves[state]:
        move()
    return lifecycle


@pytest.mark.parametrize(
    ("state", "alive", "ready", "serving"),
    [
        (State.LOADING, True, False, False),
        (State.READY, True, True, True),
        (State.DRAINING, True, False, True),
        (State.FAILED, False, False, False),
    ],
)
def test_each_state_is_alive_ready_and_serving_as_documented(
    state: State, alive: bool, ready: bool, serving: bool
) -> None:
    lifecycle = at(state)
    assert (lifecycle.alive, lifecycle.ready, lifecycle.serving) == (alive, ready, serving)


def test_draining_service_answers_until_it_refuses() -> None:
    lifecycle = at(State.DRAINING)
    lifecycle.refuse()
    assert not lifecycle.serving
    assert lifecycle.state is State.DRAINING


def test_draining_while_loading_refuses_requests() -> None:
    lifecycle = Lifecycle()
    lifecycle.drain()
    assert not lifecycle.serving


@pytest.mark.parametrize(
    ("state", "move"),
    [
        (state, move)
        for state, move in product(State, ("become_ready", "drain"))
        if (state, move)
        not in {
            (State.LOADING, "become_ready"),
            (State.LOADING, "drain"),
            (State.READY, "drain"),
        }
    ],
)
def test_illegal_transitions_are_defects(state: State, move: str) -> None:
    with pytest.raises(AssertionError, match=f"{state} cannot become"):
        getattr(at(state), move)()


def test_first_failure_is_kept() -> None:
    lifecycle = Lifecycle()
    lifecycle.fail("first")
    lifecycle.fail("second")
    assert lifecycle.failure == "first"


def test_listeners_get_the_current_and_every_later_state() -> None:
    heard: list[State] = []
    lifecycle = Lifecycle()
    lifecycle.listen(heard.append)
    lifecycle.become_ready()
    lifecycle.drain()
    lifecycle.fail("late")
    assert heard == [State.LOADING, State.READY, State.DRAINING, State.FAILED]
