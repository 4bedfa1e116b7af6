"""Shared fixtures, and settings for all tests: one thread each, so that several run in parallel."""

import os

os.environ["OMP_NUM_THREADS"] = (
    "1"  # before torch is imported; inherited by the processes that tests start
)

import shutil
import sys

import hypothesis
import pytest
import torch
from helpers.jobs import job, trained
from hydra.core.global_hydra import GlobalHydra

from kd_bench.cli import main
from kd_bench.jobs import assemble
from kd_bench.training import device
from kd_bench.training.checks.gradients import check_gradients
from kd_bench.utils.process import core_count

# No deadlines: other programs may share the machine.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("untimed")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """`-n auto`: one worker more than cores, because many tests wait for other processes."""
    return core_count() + 1


@pytest.fixture
def kd_bench(tmp_path, monkeypatch, capsys):
    """Run `kd-bench` in an empty folder; returns its exit code and everything it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["kd-bench", *map(str, arguments)])
        GlobalHydra.instance().clear()
        try:
            main.main()
            code = 0
        except SystemExit as end:
            code = end.code
        finally:
            GlobalHydra.instance().clear()
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    threads, path = torch.get_num_threads(), list(sys.path)
    yield call
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    sys.path[:] = path


@pytest.fixture(scope="session", autouse=True)
def _layers_are_checked_once():
    """Check the gradients of equal networks once per session, as the kernels do not change."""
    checked = set()

    def check(net, image_size, layout, model_name):
        key = (repr(net), image_size, layout)
        if key not in checked:
            check_gradients(net, image_size, layout, model_name)
            checked.add(key)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(assemble, "check_gradients", check)
        yield


@pytest.fixture
def one_thread():
    """The process settings of single-threaded training, for one test."""
    before = torch.get_num_threads()
    device.configure_process(1)
    yield
    torch.set_num_threads(before)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A runs folder shared by the tests of a file, so that each teacher is trained once."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def other_runs(tmp_path_factory):
    """A second runs folder, to train the same jobs again."""
    return tmp_path_factory.mktemp("other_runs")


@pytest.fixture(scope="session")
def _trained_once(tmp_path_factory):
    runs = tmp_path_factory.mktemp("finished") / "runs"
    trained(job(runs, "method=st"))
    return runs


@pytest.fixture
def finished(tmp_path, _trained_once):
    """The folders of a finished `st` student and its teacher, in runs/ below the test's folder."""
    shutil.copytree(_trained_once, tmp_path / "runs")
    (student,) = tmp_path.glob("runs/*/*/st/*/seed0")
    (teacher,) = tmp_path.glob("runs/*/none-*/baseline/*/seed0")
    return student, teacher
