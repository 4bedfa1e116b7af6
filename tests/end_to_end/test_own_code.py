"""Errors in a user's own Python: one line with its position, or only the user's frames."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from helpers.jobs import IMAGES, TINY

from kd_bench.results.run_folder import ERROR

pytestmark = pytest.mark.slow  # each assembles a job

LOSS = """\
import torch
from torch import nn
from kd_bench.interfaces import Loss


class Mine(Loss):
    stages = ("stage1",)

    def forward(self, student, teacher, batch):
"""
DIFFERENCE = "(student.logits - teacher.logits).pow(2)"
SHAPES = "RuntimeError: (addmm: )?mat1 and mat2 shapes"  # addmm: since PyTorch 2.15
NUMBER = itertools.count()  # each module needs a new name, as imports are cached


def write_method(folder: Path, code: str, weights: str = "1.0") -> str:
    """Write a module with the loss `Mine`, and its method; returns the name of both."""
    name = f"own_code_{next(NUMBER)}"
    (folder / f"{name}.py").write_text(code)
    path = folder / "own" / "method" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"name: {name}\nweights: {{ce: 1.0, mine: {weights}}}\n"
        f"losses: {{mine: {{_target_: {name}.Mine}}}}\n"
    )
    return name


def write_model(folder: Path, code: str, target: str) -> str:
    """Write a network's module, and its model without stages; returns the name of both."""
    name = f"own_code_{next(NUMBER)}"
    (folder / f"{name}.py").write_text(code)
    path = folder / "own" / "model" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"name: {name}\nnet: {{_target_: {target.format(name)}}}\n")
    return name


EMPTY = LOSS + "        pass"
TERMS = LOSS.replace("    stages", '    terms = ("a", "b")\n    stages')
MISTAKES = {
    "a syntax error": (EMPTY.replace("batch):", "batch)"), 9, "SyntaxError: expected ':'"),
    "a missing library": (
        "import no_such_library\n" + EMPTY,
        1,
        "No module named 'no_such_library'",
    ),
    "a missing name": ("from torch import Tensro\n" + EMPTY, 1, "cannot import name 'Tensro'"),
    "a name that is not defined": (
        EMPTY.replace("(Loss)", "(Los)"),
        6,
        "name 'Los' is not defined",
    ),
    "a bug in __init__": (
        EMPTY.replace("    def", "    def __init__(self, context):\n        self.none\n\n    def"),
        10,
        "object has no attribute 'none'",
    ),
    "no forward": (LOSS.rpartition("\n    def")[0], None, "needs a method forward(self, student"),
    "too few arguments": (EMPTY.replace(", batch", ""), 9, "teacher, batch)"),
    "a word for a tuple": (
        EMPTY.replace(",)", ")"),
        9,
        "('stage1',), with a comma",
    ),
    "a vector": (f"{LOSS}        return {DIFFERENCE}.mean(1)", 9, "1 dimension"),
    "a float": (f"{LOSS}        return {DIFFERENCE}.mean().item()", 9, "not a float; .item() cuts"),
    "a whole number": (f"{LOSS}        return batch.target.sum()", 9, "torch.int64"),
    "no return": (f"{LOSS}        {DIFFERENCE}.mean()", 9, "not None"),
    "a dict": (f"{LOSS}        return {{'a': {DIFFERENCE}.mean()}}", 9, "declare terms = ('a',)"),
    "a wrong name": (
        f"{TERMS}        return dict.fromkeys(['a', 'c'], {DIFFERENCE}.mean())",
        10,
        "the declared terms a, b, not a dict of a, c",
    ),
    "no dict": (f"{TERMS}        return {DIFFERENCE}.mean()", 10, "a dict of the declared terms"),
    "a stage that is not declared": (
        f"{LOSS}        x = 1\n        return x * student.features['pooled'].mean()",
        11,
        "forward reads stage 'pooled' without declaring it; declare stages: stage1, pooled",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_loss_is_reported_in_one_line_with_its_position(kd_bench, tmp_path, mistake):
    code, line, answer = MISTAKES[mistake]
    weights = "{a: 1.0, b: 1.0}" if code.startswith(TERMS[:150]) else "1.0"
    name = write_method(tmp_path, code, weights)
    exit_code, printed = kd_bench("plan", "--config-dir", "own", "-m", *TINY, f"method={name}")
    assert (exit_code, printed.count("\n")) == (2, 1), printed
    assert answer in printed
    if line is not None:
        assert f"({name}.py, line {line})" in printed


def test_a_sweep_with_a_mistake_in_one_loss_trains_nothing(kd_bench, tmp_path):
    name = write_method(tmp_path, MISTAKES["a vector"][0])
    command = ("--config-dir", "own", "-m", *TINY, f"method=baseline,{name}", "seed=0,1")
    code, printed = kd_bench(*command)
    assert (code, printed.count("\n")) == (2, 1), printed
    assert f"({name}.py, line 9): forward must return a scalar tensor" in printed
    assert not list(tmp_path.glob("runs/*"))


PLUGIN = """\
from kd_bench.interfaces import LogitPlugin, Loss


class Mine(LogitPlugin):
    def forward(self, pair, batch):
"""


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        (
            PLUGIN + "        return pair.student",
            ".py, line 5): forward must return a LogitPair, or",
        ),
        (
            PLUGIN.replace("(LogitPlugin)", "(Loss)") + "        pass",
            "is not a kd_bench.interfaces.LogitPl",
        ),
        (
            PLUGIN.replace("pair,", "student, teacher,") + "        pass",
            "missing 1 required positional",
        ),
        (PLUGIN.replace("forward", "fwd") + "        pass", "NotImplementedError"),
    ],
    ids=["no pair", "a loss", "the arguments of a loss", "no forward"],
)
def test_a_mistake_in_a_plugin_is_reported_in_one_line(kd_bench, tmp_path, code, answer):
    name = f"own_code_{next(NUMBER)}"
    (tmp_path / f"{name}.py").write_text(code)
    (tmp_path / "own/plugin").mkdir(parents=True)
    text = f"# @package method.plugins\nmine: {{_target_: {name}.Mine}}\n"
    (tmp_path / "own/plugin/mine.yaml").write_text(text)
    exit_code, printed = kd_bench("plan", "--config-dir", "own", *TINY, "plugin=mine")
    assert (exit_code, printed.count("\n")) == (2, 1), printed
    assert answer in printed


BUG = f"""{LOSS}\
        return scaled(student.logits, teacher).mean()


def scaled(logits, teacher):
    if batch_is_late():
        return logits @ torch.zeros(7, 7)
    return logits


def batch_is_late():
    return """


def test_a_bug_in_a_loss_shows_only_its_frames_before_anything_trains(kd_bench, tmp_path):
    name = write_method(tmp_path, BUG + "True")
    code, printed = kd_bench("--config-dir", "own", *TINY, f"method={name}")
    assert code == 1
    assert re.match(SHAPES, printed.splitlines()[-1])
    frames = [line for line in printed.splitlines() if line.startswith("  File")]
    assert [frame.rpartition(" ")[2] for frame in frames] == ["forward", "scaled"]
    assert all(f"{name}.py" in frame for frame in frames)
    assert not (tmp_path / "runs").exists()


# Validation does not run a loss that opens a file for writing.
LATE = BUG + "open('log', 'a').write('x')"


def test_a_bug_found_in_training_shows_only_the_losss_frames(kd_bench, tmp_path, monkeypatch):
    name = write_method(tmp_path, LATE)
    command = ("--config-dir", "own", *TINY, f"method={name}")
    assert kd_bench("plan", *command)[0] == 0
    assert not (tmp_path / "log").exists()
    code, printed = kd_bench(*command)
    assert code == 1
    assert printed.count('  File "') == 2, printed
    (error,) = tmp_path.glob(f"runs/*/*/{name}/*/*/{ERROR}")
    assert re.match(SHAPES, error.read_text())
    assert error.read_text().count('  File "') == 2
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    code, printed = kd_bench(*command)
    assert code == 1
    assert "training/step.py" in printed


@pytest.mark.parametrize(
    ("code", "target", "answer"),
    [
        ("import no_such_library", "{}.net", "({}.py, line 1); install it, or put its file into"),
        (
            "def net(num_classes):\n    return 1 / 0",
            "{}.net",
            "ZeroDivisionError: division by zero",
        ),
        ("def net(num_classes): return 3", "{}.net", "{}.net returned 3, which is not a torch.nn"),
        ("", "no_such_file.net", "no module no_such_file, neither installed nor in this folder"),
    ],
    ids=["import", "error", "number", "file"],
)
def test_a_mistake_in_a_model_is_reported_in_one_line(kd_bench, tmp_path, code, target, answer):
    name = write_model(tmp_path, code, target)
    command = ("--config-dir", "own", *IMAGES, "method=baseline", f"model={name}")
    exit_code, printed = kd_bench(*command)
    assert (exit_code, printed.count("\n")) == (2, 1), printed
    assert printed.startswith(f"kd-bench: model '{name}': ")
    assert answer.format(name) in printed


NET = """\
from torch import nn


def net(num_classes):
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))
"""


def test_a_model_without_stages_works_with_methods_that_read_none(kd_bench, tmp_path):
    name = write_model(tmp_path, NET, "{}.net")
    command = ("--config-dir", "own", *IMAGES, "recipe=quickstart", "recipe.epochs=1")
    for method in ("baseline", "st"):
        code, printed = kd_bench(*command, f"model={name}", f"teacher={name}", f"method={method}")
        assert code == 0, printed
    code, printed = kd_bench(*command, f"model={name}", "method=at")
    assert (code, printed.count("\n")) == (2, 1), printed
    assert f"{name} has no stages, but the method reads 'stage1'" in printed
    # Not 0.1, whose output is modified in place
    assert "PATH is one of 0, 1, 2, 3, 0.0, 0.2, or PATH:input" in printed


def test_a_bug_in_a_networks_forward_shows_only_its_frames(kd_bench, tmp_path):
    code = (
        "from torch import nn\n\nclass Net(nn.Flatten):\n    def forward(self, x): return x.no()\n"
    )
    code += "\ndef net(num_classes): return Net()\n"
    name = write_model(tmp_path, code, "{}.net")
    exit_code, printed = kd_bench(
        "--config-dir", "own", *IMAGES, "method=baseline", f"model={name}"
    )
    assert exit_code == 1
    assert printed.count('  File "') == 1, printed
    assert "AttributeError: 'Tensor' object has no attribute 'no'" in printed
