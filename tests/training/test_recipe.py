"""Defaults of the recipe, and how they depend on the size of the data."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from training.recipe import Recipe, recipe_for


def test_defaults_for_cifars_size_are_those_of_the_bundled_model() -> None:
    assert recipe_for(50_000, {}) == Recipe()


@given(images=st.integers(2, 2_000_000))
def test_defaults_depend_on_the_number_of_images(images: int) -> None:
    recipe = recipe_for(images, {})
    steps = recipe.epochs * (images // recipe.batch_size)
    assert 1 <= recipe.batch_size <= min(128, images)
    assert steps >= 500
    assert recipe.average**steps < 1e-6  # share of the first weights in the average
    assert recipe.epochs == 26 or steps < 1000
    assert recipe.decay_epochs == recipe.epochs // 2


@given(images=st.integers(2, 100_000), epochs=st.integers(1, 100))
def test_run_with_default_choices_can_be_prolonged(images: int, epochs: int) -> None:
    short, long = (recipe_for(images, {"epochs": count}) for count in (epochs, epochs + 7))
    assert replace(short, epochs=long.epochs, decay_epochs=long.decay_epochs) == long
