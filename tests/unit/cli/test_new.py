"""kd-bench new: the files it writes pass their own test and train; nothing is overwritten."""

import os
import subprocess
import sys

import pytest
from helpers.jobs import TINY
from helpers.paths import ROOT

KINDS = ("method", "model", "dataset")
NAMES = ["my_thing.py", "my_conf/{}/my_thing.yaml", "test_my_thing.py"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_new_files_pass_their_own_test_and_train(kd_bench, tmp_path, kind):
    code, printed = kd_bench("new", kind, "my_thing")
    paths = [name.format(kind) for name in NAMES]
    choice = f"{kind}=my_thing" + (" method=baseline" if kind != "method" else "")
    assert (code, printed.splitlines()) == (
        0,
        [
            f"wrote {', '.join(paths)}; try it:",
            "  pytest test_my_thing.py",
            f"  kd-bench --config-dir my_conf {choice} recipe=quickstart",
        ],
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_thing.py"]
    tested = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    images = [word for word in TINY if kind != "dataset" or not word.startswith("dataset")]
    nets = [word for word in images if kind != "model" or not word.startswith(("model", "pair"))]
    code, printed = kd_bench("--config-dir", "my_conf", *nets, *choice.split())
    del sys.modules["my_thing"]  # other tests write modules of this name
    assert code == 0, printed
    assert " seed 0: done: " in printed


@pytest.mark.parametrize("number", range(3))
def test_nothing_is_overwritten(kd_bench, tmp_path, number):
    path = NAMES[number].format("method")
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text("mine")
    code, printed = kd_bench("new", "method", "my_thing")
    assert (code, printed) == (2, f"kd-bench: {path} already exists; choose another name\n")
    assert [file.read_text() for file in tmp_path.rglob("*.*") if file.is_file()] == ["mine"]


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        (["plugin", "mine"], "kind: unknown 'plugin'; choose from method, model, dataset"),
        (["method", "my-loss"], "a letter, then letters, digits and '_', and not a"),
        (["method", "ce"], "'ce' already has a meaning in these files; choose another name"),
        (["method", "loss_context"], "'loss_context' already has a meaning in these files"),
        (["model", "Null"], "'Null' already has a meaning in these files"),
        (["method", "class"], "got 'class'"),
        (["method", "../mine"], "got '../mine'"),
        (["method", "rkd"], "kd-bench has a method 'rkd' already; choose another name"),
        (["model", "torch"], "an installed module 'torch' would be imported instead of yours"),
        (["method"], "the following arguments are required: NAME"),
    ],
    ids=str,
)
def test_a_mistake_is_reported_in_one_line(kd_bench, tmp_path, typed, answer):
    code, printed = kd_bench("new", *typed)
    assert (code, printed.count("\n")) == (2, 1), printed
    assert answer in printed
    assert not list(tmp_path.iterdir())
