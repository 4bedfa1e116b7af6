"""The example in CONTRIBUTING.md works as printed."""

from __future__ import annotations

import inspect
import re
import sys
import types

import pytest
import yaml
from helpers.paths import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text()
METHOD, CONFIG, TEST = (
    "kd_bench/methods/cosine.py",
    "conf/method/cosine.yaml",
    "tests/unit/methods/test_cosine.py",
)


def shown(path: str) -> str:
    """The first code block after the name of a file."""
    return re.search(r"^```\w+\n(.*?)^```$", PAGE[PAGE.index(path) :], re.MULTILINE | re.DOTALL)[1]


@pytest.fixture
def modules(monkeypatch):
    """The method and its tests, as modules."""
    made = []
    for name, path in (("kd_bench.methods.cosine", METHOD), ("test_cosine", TEST)):
        module = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile(shown(path), path, "exec"), vars(module))
        made.append(module)
    return made


def test_its_tests_pass(modules):
    _, tests = modules
    found = [test for name, test in vars(tests).items() if name.startswith("test_")]
    assert len(found) > 1
    for test in found:
        test()


def test_its_yaml_sets_every_hyperparameter(modules):
    config = yaml.safe_load(shown(CONFIG))
    (name,) = config["losses"]
    loss = dict(config["losses"][name])
    target = loss.pop("_target_").rpartition(".")
    taken = inspect.signature(getattr(sys.modules[target[0]], target[2])).parameters
    assert set(taken) == {"context", *loss}
    assert set(config["weights"]) == {"ce", name}
