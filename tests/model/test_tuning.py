"""Choosing batch sizes on a simulated machine with busy moments."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.backends.timing import Effort, steady_seconds
from model.inference.tuning import (
    EFFORT,
    plausible,
    smallest_near_best,
    throughput_by_size,
    time_sizes,
)

SIZES = (1, 2, 4, 8)
QUIET = {1: 8 / 3800, 2: 2 / 430, 4: 4 / 480, 8: 8 / 500}


@dataclass
class Machine:
    """Simulated durations of batches by size, multiplied by a factor in busy moments.

    Attributes:
        moments: beginning, end and factor of each.
    """

    seconds: Mapping[int, float]
    moments: Sequence[tuple[float, float, float]] = ()
    now: float = 0.0

    def clock(self) -> float:
        return self.now

    def run(self, size: int) -> float:
        factor = max((f for begin, end, f in self.moments if begin <= self.now < end), default=1.0)
        taken = self.seconds[size] * factor
        self.now += taken
        return taken

    def choice(self) -> int:
        sizes = sorted(self.seconds)
        found = time_sizes(self.run, sizes, self.clock)
        return smallest_near_best(sizes, throughput_by_size([found], sizes))


def quiet(rates: Mapping[int, float]) -> dict[int, float]:
    return {size: size / rate for size, rate in rates.items()}


ISSUE = quiet({1: 380, 2: 430, 4: 480, 8: 520})


def test_timings_of_a_busy_moment_are_rejected() -> None:
    assert not plausible(quiet({1: 118, 2: 418, 4: 478, 8: 95}))
    assert not plausible(quiet({1: 118, 2: 418, 4: 478, 8: 490}))
    assert not plausible(quiet({1: 380, 2: 418, 4: 478, 8: 95}))
    assert plausible(quiet({1: 380, 2: 418, 4: 478, 8: 470}))
    assert plausible(quiet({1: 380, 2: 418, 4: 478, 8: 400}))


@pytest.mark.parametrize("begin", [n / 100 for n in range(0, 40, 3)])
@pytest.mark.parametrize("factor", [1.5, 4.0, 20.0])
def test_busy_moment_does_not_change_the_choice(begin: float, factor: float) -> None:
    assert Machine(ISSUE, [(begin, begin + 0.09, factor)]).choice() == Machine(ISSUE).choice() == 8


@given(
    first=st.floats(100, 5000),
    gains=st.lists(st.floats(0.85, 1.9), min_size=3, max_size=3),
    begin=st.floats(0, 1.5),
    length=st.floats(0.0, 0.09),
    factor=st.floats(1.3, 30),
)
def test_disturbance_of_under_half_the_measurement_changes_no_choice(
    first: float, gains: list[float], begin: float, length: float, factor: float
) -> None:
    rates = [first]
    for gain in gains:
        rates.append(rates[-1] * gain)
    seconds = quiet(dict(zip(SIZES, rates, strict=True)))
    noisy = Machine(seconds, [(begin, begin + length, factor)])
    assert noisy.choice() == Machine(seconds).choice()


@given(
    period=st.floats(0.06, 0.3),
    share=st.floats(0.05, 0.3),
    phase=st.floats(0, 1),
    factor=st.floats(1.5, 10),
)
def test_periodic_load_does_not_change_the_choice(
    period: float, share: float, phase: float, factor: float
) -> None:
    begins = [period * (number - phase) for number in range(200)]
    machine = Machine(ISSUE, [(begin, begin + share * period, factor) for begin in begins])
    chosen = machine.choice()
    assert ISSUE[chosen] / chosen <= 1.1 * ISSUE[8] / 8


@pytest.mark.parametrize("size", [1, 8])
def test_implausibly_slow_size_is_timed_again(size: int) -> None:
    """As in `1: 118, 2: 418, 4: 478, 8: 95`, where one size is disturbed every time."""
    machine = Machine(ISSUE)
    real = machine.run

    def run(asked: int) -> float:
        taken = real(asked)
        if asked == size and machine.now < 0.4:
            machine.now += 4 * taken
            return 5 * taken
        return taken

    found = time_sizes(run, SIZES, machine.clock)
    assert found == pytest.approx(ISSUE)


def test_quiet_machine_is_measured_briefly() -> None:
    for seconds in (ISSUE, quiet({1: 5000, 2: 6000, 4: 7000, 8: 7500})):
        machine = Machine(seconds)
        machine.choice()
        one_round = sum(min(8, 8 // size) * seconds[size] for size in SIZES)
        least = max(EFFORT.seconds, EFFORT.rounds * one_round)
        assert machine.now <= least + one_round


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_measurement_of_a_busy_machine_is_bounded(scale: float) -> None:
    """No rounds agree, because each is slower than the one before."""
    seconds = {size: scale * taken for size, taken in ISSUE.items()}
    machine = Machine(seconds)
    slower = iter(range(1, 10_000))

    def run(size: int) -> float:
        taken = seconds[size] * next(slower) ** 2 / 100
        machine.now += taken
        return taken

    rounds = list[float]()

    def measure(number: int) -> dict[int, float]:
        begun = machine.now
        found = {size: run(size) for size in SIZES}
        rounds.append(machine.now - begun)
        return found

    steady_seconds(measure, EFFORT, clock=machine.clock)
    enough = max(EFFORT.seconds, sum(rounds[: EFFORT.rounds]))
    assert machine.now <= max(EFFORT.limit, 2 * enough + 2 * max(rounds)) + rounds[-1]


def test_real_drop_in_throughput_is_accepted() -> None:
    machine = Machine(quiet({1: 380, 2: 430, 4: 480, 8: 200}))
    assert machine.choice() == 4
    assert machine.now <= EFFORT.limit + 0.2


@given(
    samples=st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=40),
    rounds=st.integers(1, 8),
)
def test_estimate_is_within_the_measured_range(samples: list[float], rounds: int) -> None:
    taken = list[float]()

    def measure(number: int) -> dict[str, float]:
        taken.append(samples[number % len(samples)])
        return {"it": taken[-1]}

    found = steady_seconds(
        measure, Effort(rounds=rounds, limit=1.0), clock=lambda: math.fsum(taken)
    )
    assert min(taken) * 0.999 <= found["it"] <= max(taken) * 1.001
    assert len(taken) >= rounds


def test_each_round_begins_with_another_size() -> None:
    machine, seen = Machine(ISSUE), list[int]()
    real: Callable[[int], float] = machine.run

    def run(size: int) -> float:
        seen.append(size)
        return real(size)

    found = time_sizes(run, SIZES, machine.clock)
    assert list(found) == list(SIZES)
    assert seen[:15] == [1] * 8 + [2] * 4 + [4] * 2 + [8]
    assert seen[15:22] == [2] * 4 + [4] * 2 + [8]
