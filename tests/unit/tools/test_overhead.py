"""tools/overhead.py: where the time of a sweep goes."""

import importlib.util

import pytest
from helpers.paths import TOOLS

PATH = TOOLS / "overhead.py"


@pytest.mark.slow
def test_every_part_of_a_sweeps_time_is_found_and_shown(capsys):
    spec = importlib.util.spec_from_file_location("overhead", PATH)
    overhead = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(overhead)
    found = overhead.overhead(jobs=5, slots=2, tensorboard=False)
    assert found["jobs"] == 6  # and the teacher's
    assert all(seconds > 0 for seconds in found["parts"].values())
    overhead.show_overhead(found)
    assert capsys.readouterr().out.startswith("6 jobs on 2 slots: ")
