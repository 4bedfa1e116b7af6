"""The current folder is searched for modules after all installed packages, or not at all."""

import os
import sys

import pytest

from kd_bench.jobs.instantiate import import_target
from kd_bench.utils.errors import UserError
from kd_bench.utils.own_modules import leave_out_current_folder, search_current_folder


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", os.getcwd(), *sys.path])
    return tmp_path


def test_it_is_searched_last_and_once():
    for _ in range(2):
        search_current_folder()
        assert sys.path[-1] == os.getcwd()
        assert sys.path.count(os.getcwd()) == 1
        assert "" not in sys.path
    leave_out_current_folder()
    assert os.getcwd() not in sys.path


@pytest.mark.parametrize("target", ["pandas.Net", "pandas.mine.Net"])
def test_a_file_with_the_name_of_a_library_is_an_error_with_the_remedy(folder, target):
    (folder / "pandas.py").write_text("class Net: pass\n")
    with pytest.raises(UserError, match=r"which hides pandas\.py in this folder: rename that$"):
        import_target(target, "model 'x'")


def test_an_own_file_is_imported(folder):
    (folder / "own_net.py").write_text("class Net: pass\n")
    assert import_target("own_net.Net", "model 'x'").__module__ == "own_net"
    with pytest.raises(UserError, match=r"choose from Net of own_net$"):
        import_target("own_net.Nte", "model 'x'")
    del sys.modules["own_net"]
