"""Hypothesis without a deadline: other processes may slow down a single example."""

from hypothesis import settings

settings.register_profile("tests", deadline=None)
settings.load_profile("tests")
