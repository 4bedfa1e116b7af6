"""torchvision can be imported, also by targets, whether or not it matches the installed torch."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from helpers.shell import environment

from kd_bench.utils import torchvision
from kd_bench.utils.torchvision import import_torchvision

# This line makes torchvision's own import fail where its compiled operators do not load.
UNFIT = """
import pytest
import torch
torch.library.register_fake("torchvision::nms")(lambda *given: given[0])

def resnet18(num_classes):
    return torch.nn.Linear(3, num_classes)
"""


def test_torchvision_works_with_this_torch():
    net = import_torchvision().models.squeezenet1_1(num_classes=3)
    assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


@pytest.mark.parametrize("library", ["_C.so", "_C_stable.so"])  # the second since 0.29
def test_operators_that_load_are_not_declared(monkeypatch, tmp_path, library):
    (tmp_path / library).symlink_to(torch._C.__file__)
    found = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(torchvision, "find_spec", lambda name: found)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    assert torchvision.declare_operators.__wrapped__() is None


@pytest.mark.slow
def test_a_target_may_import_a_torchvision_without_loadable_operators(tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(UNFIT)
    (tmp_path / "torchvision" / "_C.so").touch()
    (tmp_path / "mine.py").write_text("from torchvision import resnet18 as net\n")
    program = (
        "from kd_bench.jobs.instantiate import import_target\n"
        "for path in ('mine.net', 'torchvision.resnet18'):\n"
        "    print(import_target(path, 'model')(3).out_features)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["3", "3"], done.stderr
