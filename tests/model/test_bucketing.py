"""Computing batches of any size in passes of a few sizes, compared with all alternatives."""

from itertools import product

import pytest

from model.inference.tuning import Passes, cheapest_passes


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({1: 1.0}, [(), (1,)]),
        ({1: 2.0, 2: 3.0, 4: 4.5}, [(), (1,), (2,), (4,), (4,)]),  # three images are padded
        ({1: 1.0, 2: 2.0, 4: 9.0}, [(), (1,), (2,), (1, 2), (4,)]),  # three images are divided
        ({1: 2.0, 4: 5.0, 6: 9.0}, [(), (1,), (1, 1), (4,), (4,), (1, 4), (6,)]),
    ],
)
def test_batch_is_padded_or_divided(seconds: dict[int, float], expected: list[Passes]) -> None:
    assert cheapest_passes(seconds) == expected


def test_no_other_division_is_faster() -> None:
    seconds = {1: 1.3, 2: 1.9, 4: 3.0, 8: 5.2}
    for count, passes in enumerate(cheapest_passes(seconds)):
        assert sum(passes) >= count
        if count not in seconds:
            ways = (way for length in range(1, 5) for way in product(seconds, repeat=length))
            least = min(sum(map(seconds.get, way)) for way in ways if sum(way) >= count)  # type: ignore[arg-type]
            assert sum(seconds[size] for size in passes) == pytest.approx(least if count else 0)
