"""Settings of all tests."""

from hypothesis import settings

# The same examples in every run: what a search by chance finds is for campaigns (tests/support/fuzzing.py).
settings.register_profile("same", derandomize=True)
settings.load_profile("same")
