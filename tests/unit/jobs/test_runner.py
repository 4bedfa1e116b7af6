"""A job whose folder disappears while it runs."""

import pytest
from helpers.jobs import job

from kd_bench.interfaces import UserError
from kd_bench.jobs import runner
from kd_bench.jobs.runner import NullReporter, run
from kd_bench.results.run_folder import ERROR
from kd_bench.training.distributed import launch as launcher
from kd_bench.training.distributed.ranks import Ranks
from kd_bench.utils.errors import OwnCodeError


@pytest.mark.slow
def test_a_folder_that_disappears_is_reported_in_one_line(tmp_path):
    baseline = job(tmp_path, "method=baseline")

    class Unmounts(NullReporter):
        def epoch(self, row, timing):
            (tmp_path / "synthetic").rename(tmp_path / "elsewhere")  # at once, as by an unmount

    with pytest.raises(UserError, match="seed0 disappeared while its job ran; rerun the"):
        run(baseline, Unmounts())
    assert run(baseline, NullReporter())[1]


def test_the_error_in_one_of_several_processes_is_written_as_the_error_of_the_job(
    tmp_path, monkeypatch
):
    def fail(size, function, *arguments):
        raise OwnCodeError("Traceback of your own code\nKeyError: 7", "KeyError: 7")

    monkeypatch.setattr(launcher, "launch", fail)
    monkeypatch.setattr(runner, "check_processes", lambda *_: None)
    shared = job(tmp_path, "method=baseline", "gpus_per_job=2")
    with pytest.raises(OwnCodeError):
        run(shared, NullReporter())
    text = (shared.path / ERROR).read_text()
    assert text == "KeyError: 7\n\nTraceback of your own code\nKeyError: 7\n"


def test_the_first_of_several_processes_does_not_write_its_own_error(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(runner, "_train_and_record", fail)
    given = job(tmp_path, "method=baseline")
    given.path.mkdir(parents=True)
    with pytest.raises(RuntimeError, match="Connection closed"):
        runner._run_one_of(Ranks(), given, NullReporter())
    assert list(given.path.iterdir()) == []


def test_no_process_trains_if_the_first_one_finds_the_job_finished(tmp_path, monkeypatch):
    class Second(Ranks):
        """The second of two processes; the first one has found the record."""

        def from_first(self, make):
            return False

    monkeypatch.setattr(runner, "train", lambda *_: pytest.fail("it trains"))
    runner._run_one_of(Second(1, 2), job(tmp_path, "method=baseline"), NullReporter())
