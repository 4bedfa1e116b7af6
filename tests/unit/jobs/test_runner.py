"""A job whose folder disappears while it runs."""

import pytest
from helpers.jobs import job

from kd_bench.interfaces import UserError
from kd_bench.jobs.runner import NullReporter, run


def test_a_folder_that_disappears_is_reported_in_one_line(tmp_path):
    baseline = job(tmp_path, "method=baseline")

    class Unmounts(NullReporter):
        def epoch(self, row, timing):
            (tmp_path / "synthetic").rename(tmp_path / "elsewhere")  # at once, as by an unmount

    with pytest.raises(UserError, match="seed0 disappeared while its job ran; rerun the"):
        run(baseline, Unmounts())
    assert run(baseline, NullReporter())[1]
