"""A user's own configuration files (--config-dir): what they may set, and where they may be."""

import pytest
from helpers.jobs import TINY

from kd_bench.cli import hydra_app
from kd_bench.results.store import find_records

SOFT = "# @package _global_\nmethod: {losses: {st: {temperature: 8}}}\n"
ATTENTION = "# @package _global_\ndefaults: [{override /method: at}]\n"
QUICKSTART = "# @package _global_\ndefaults: [{override /sweep: quickstart}]\n"
THREE_SEEDS = "# @package _global_\nhydra: {mode: MULTIRUN, sweeper: {params: {seed: '0,1,2'}}}\n"
ST = """\
name: own
losses: {st: {_target_: kd_bench.methods.st.SoftTarget, temperature: 4}}
weights: {ce: 0.1, st: 0.9}
"""


def write(path, text):
    path.parent.mkdir(parents=True)
    path.write_text(text)


def changes(runs):
    """The `changed` values in each student's record."""
    return [record.changed for _, record in find_records(runs) if "teacher" in record.identity]


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("-m",)])
def test_a_value_set_by_an_experiment_counts_as_changed(kd_bench, tmp_path, flags):
    write(tmp_path / "own/experiment/soft.yaml", SOFT)
    command = (*flags, "--config-dir", "own", "+experiment=soft", *TINY, "method=st")
    code, printed = kd_bench(*command)
    assert code == 0, printed
    assert "st (temperature=8) seed 0: done" in printed
    (changed,) = changes(tmp_path / "runs")
    assert changed["method.losses.st.temperature"] == 8


@pytest.mark.slow
def test_a_choice_made_by_an_experiment_does_not_count_as_changed(kd_bench, tmp_path):
    write(tmp_path / "own/experiment/attention.yaml", ATTENTION)
    code, printed = kd_bench("--config-dir", "own", "+experiment=attention", *TINY)
    assert code == 0, printed
    (changed,) = changes(tmp_path / "runs")
    assert not [key for key in changed if key.startswith("method")]


@pytest.mark.slow
@pytest.mark.parametrize(("text", "jobs"), [(QUICKSTART, 16), (THREE_SEEDS, 4)])
def test_a_sweep_chosen_by_an_experiment_is_run(kd_bench, tmp_path, text, jobs):
    write(tmp_path / "own/experiment/mine.yaml", text)
    code, printed = kd_bench("plan", "--config-dir", "own", "+experiment=mine")
    assert code == 0, printed
    assert f"\n{jobs} jobs: " in printed, printed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a,b", "año", "x (copy)", "it's [here]", "a=b&c#d{e}"])
def test_the_folder_may_have_any_name(kd_bench, tmp_path, name):
    write(tmp_path / name / "method/mine.yaml", ST)
    code, printed = kd_bench("plan", "--config-dir", name, "method=mine")
    assert code == 0, printed
    assert "resnet20-resnet8 own seed 0: to do" in printed
    assert hydra_app.compose_single(["method=mine"], name).method.name == "own"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("name: own\nweights:\n\tce: 1\n", "line 3: found character '\\t' that cannot start any"),
        ("name: own\nweights: {ce: 1}\nname: two\n", "line 3: found duplicate key name"),
        ("name: own\nweights: {ce: [1}\n", "line 2: expected ',' or ']', but got '}'"),
        ("name: own\nwieghts: {ce: 1}\n", "In 'method/mine': unknown key 'wieghts' in method;"),
        ("- name\n", "In 'method/mine': Merge error: list is not a subclass of MethodConfig"),
    ],
    ids=["tab", "key twice", "bracket", "unknown key", "list"],
)
@pytest.mark.parametrize("flags", [(), ("-m",)], ids=["one", "sweep"])
def test_a_mistake_in_yaml_is_reported_in_one_line_with_its_position(
    kd_bench, tmp_path, flags, text, answer
):
    write(tmp_path / "own/method/mine.yaml", text)
    code, printed = kd_bench(*flags, "--config-dir", "own", "method=mine")
    assert (code, printed.count("\n")) == (2, 1), printed
    assert answer in printed
    if " line " in answer:
        assert printed.startswith("kd-bench: own/method/mine.yaml, line ")


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("-m",)], ids=["one", "sweep"])
def test_a_plugin_file_without_a_package_header_is_refused_with_the_missing_line(
    kd_bench, tmp_path, flags
):
    text = "# Ours\n# @package method.plugins\nmine: {_target_: mine.Swapped}\n"
    write(tmp_path / "own/plugin/mine.yaml", text)
    code, printed = kd_bench(*flags, "--config-dir", "own", "plugin=mine")
    assert code == 2
    answer = "In 'plugin/mine': the first line of the file must be '# @package method.plugins'"
    assert printed == f"kd-bench: {answer}\n"


@pytest.mark.slow
def test_an_experiment_without_a_plus_is_refused_with_the_override_that_adds_it(kd_bench, tmp_path):
    write(tmp_path / "own/experiment/soft.yaml", SOFT)
    code, printed = kd_bench("--config-dir", "own", "experiment=soft")
    assert (code, printed.count("\n")) == (2, 1), printed
    assert "add one with +experiment=soft" in printed
