"""The holdout is balanced, and depends only on file names."""

import hashlib
import random
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import ModelError
from model.evaluation.holdout import held_out


def images(classes: int, per_class: int, prefix: str = "train") -> list[PurePosixPath]:
    return [
        PurePosixPath(prefix, f"class {label:02}", f"{number:04}.jpg")
        for label in range(classes)
        for number in range(per_class)
    ]


def names(paths: list[PurePosixPath]) -> set[str]:
    return {f"{path.parent.name}/{path.name}" for path in paths}


@given(classes=st.integers(2, 12), per_class=st.integers(2, 30), data=st.data())
def test_classes_get_equally_many_images(classes: int, per_class: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(classes, classes * (per_class - 1)))
    chosen = held_out(images(classes, per_class), count)
    assert len(chosen) == len(set(chosen)) == count
    found = [
        sum(path.parent.name == f"class {label:02}" for path in chosen) for label in range(classes)
    ]
    assert max(found) - min(found) <= 1
    assert found == sorted(found, reverse=True)


@given(seed=st.integers(), classes=st.integers(2, 5))
def test_holdout_does_not_depend_on_order_or_folder(seed: int, classes: int) -> None:
    chosen = held_out(images(classes, 20), 3 * classes)
    others = images(classes, 20, "/somewhere/else")
    random.Random(seed).shuffle(others)
    again = held_out(others, 3 * classes)
    assert names(again) == names(chosen)
    assert again == [path for path in others if path in set(again)]


def test_holdout_has_the_smallest_digests_of_class_and_name() -> None:
    chosen = held_out(images(2, 50), 10)
    for label in ("class 00", "class 01"):
        ordered = sorted(
            (f"{label}/{number:04}.jpg" for number in range(50)),
            key=lambda name: hashlib.sha256(name.encode()).hexdigest(),
        )
        assert names(chosen) & set(ordered) == set(ordered[:5])


def test_larger_holdout_contains_a_smaller_one() -> None:
    paths = images(3, 40)
    assert set(held_out(paths, 9)) < set(held_out(paths, 30))


@pytest.mark.parametrize("count", [-1, 1, 2, 58, 1000])
def test_counts_that_leave_a_class_empty_are_refused(count: int) -> None:
    with pytest.raises(ModelError, match=rf"holdout is {count}; it must be 0, or from 3 to 57: "):
        held_out(images(3, 20), count)
