import os

from hypothesis import settings

# The first example of a test may compile or import: no deadlines, no clocks.
settings.register_profile("bitplane", deadline=None, derandomize=True)
settings.load_profile("bitplane")

# Every plan that a test makes is checked by the plan verifier, in subprocesses too.
os.environ["BITPLANE_VERIFY"] = "1"
