"""What holds for all tests: one thread each, so that several run side by side."""

import os

os.environ["OMP_NUM_THREADS"] = (
    "1"  # before torch is loaded; processes that tests start have it too
)
