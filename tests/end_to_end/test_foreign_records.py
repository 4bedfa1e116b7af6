"""Records from an untrusted folder: none of the Python files in it is imported."""

import json
import subprocess

import pytest
from helpers.jobs import TINY
from helpers.shell import KD_BENCH, environment

from kd_bench.results.record import CHECKSUM

TRAPS = ["torch", "numpy", "pandas", "tensorboard", "rich", "omegaconf", "trap", "kd_bench_trap"]
OWN = """
from kd_bench.methods.st import SoftTarget

class Mine(SoftTarget):
    pass
"""


def set_traps(folder):
    """Write modules, some named like libraries, that write a file `sprung` when imported."""
    for name in TRAPS:
        path = folder / f"{name}.py"
        path.write_text(f"open({str(folder / 'sprung')!r}, 'a').write({name!r})\n")


def rewrite(folder, change):
    path = folder / "result.json"
    record = json.loads(path.read_text())
    change(record["config"])
    record.pop(CHECKSUM)  # an attacker can compute it
    path.write_text(json.dumps(record))


def started(folder, *words):
    """Run `python -m kd_bench` in a folder, which Python would search first."""
    command = [*KD_BENCH, *map(str, words)]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("command", ["rerun", "evaluate", "export"])
@pytest.mark.parametrize("target", ["os.mkdir", "trap.Net", "kd_bench_trap.Net"])
def test_a_record_that_would_call_untrusted_code_is_refused(kd_bench, finished, command, target):
    student, _ = finished
    net = {"_target_": target, "path": "sprung"}
    rewrite(student, lambda config: config["model"].update(net=net))
    code, printed = kd_bench(command, student)
    assert (code, printed.count("\n")) == (2, 1), printed
    assert f"{student}/result.json would call {target}(path='sprung') as model.net" in printed
    assert f"add --trust {target.partition('.')[0]}\n" in printed


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_code_that_a_command_does_not_call_needs_no_trust(kd_bench, finished, command):
    student, _ = finished
    losses = {"mine": {"_target_": "mine.Loss"}}
    rewrite(student, lambda config: config["method"].update(losses=losses))
    assert kd_bench(command, student)[0] == 0


@pytest.mark.slow
def test_a_section_replaced_on_the_command_line_needs_no_trust(kd_bench, finished):
    student, _ = finished
    rewrite(student, lambda config: config["dataset"].update(source={"_target_": "mine.Images"}))
    images = [word for word in TINY if word.startswith("dataset")]
    assert kd_bench("evaluate", student, *images)[0] == 0


@pytest.mark.slow
def test_no_command_that_reads_records_imports_a_module_next_to_them(finished, tmp_path):
    student, teacher = finished
    set_traps(tmp_path)
    rewrite(student, lambda config: config["model"].update(net={"_target_": "trap.Net"}))
    for words, code in ((["table"], 0), (["clean"], 0), (["rerun", student], 2)):
        assert started(tmp_path, *words)[0] == code
    assert started(tmp_path, "evaluate", teacher)[0] == 0
    assert not (tmp_path / "sprung").exists()


@pytest.mark.slow
def test_sweeps_and_reruns_import_own_modules_which_shadow_no_library(tmp_path):
    set_traps(tmp_path)
    (tmp_path / "mine.py").write_text(OWN)
    own = ("method=st", "method.losses.st._target_=mine.Mine")
    code, printed = started(tmp_path, "-m", *TINY, *own, "seed=0,1", "tensorboard=true")
    assert code == 0, printed
    (student,) = tmp_path.glob("runs/*/*/st/*/seed1")
    code, printed = started(tmp_path, "rerun", student, "--trust", "mine")
    assert code == 0, printed
    assert not (tmp_path / "sprung").exists()
