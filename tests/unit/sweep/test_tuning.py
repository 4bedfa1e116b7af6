"""Tuning selects by validation accuracy only, and resumes."""

from __future__ import annotations

import json

import pytest
from helpers.jobs import TINY, rewrite_record, trained

from kd_bench.config import compose
from kd_bench.config.compose import compose_jobs
from kd_bench.jobs.resolve import resolve_job
from kd_bench.results.run_folder import ERROR, HISTORY, RESULT
from kd_bench.results.study import STUDY, Study
from kd_bench.sweep.launchers import registry as launchers
from kd_bench.sweep.tuning import TRIALS, Tuning, validation_accuracy
from kd_bench.utils.errors import DamagedError, UserError

JOB = (*TINY, "method=st", "recipe.epochs=1", "seed=3")


@pytest.fixture
def tuning(tmp_path):
    """A study with seed 3 and two trials that hold out 10 images."""
    launchers.register()
    with compose.initialized():
        yield Tuning([(*JOB, f"runs_dir='{tmp_path}/it\\'s'")], 2, 10)


@pytest.fixture
def trials(tuning):
    """The jobs of its trials, trained."""
    jobs = [resolve_job(*composed) for composed in compose_jobs(tuning.trials)]
    for job in jobs:
        trained(job)
    return jobs


def set_validation(job, accuracy):
    """Change the validation accuracy of a job's only epoch."""
    path = job.path / HISTORY
    names, row = (line.split(",") for line in path.read_text().splitlines())
    row[names.index("validation_accuracy")] = str(accuracy)
    path.write_text("\n".join(map(",".join, (names, row))) + "\n")


@pytest.mark.slow
def test_trials_and_their_teacher_train_without_the_validation_images(tuning, tmp_path):
    first, second = (resolve_job(*composed) for composed in compose_jobs(tuning.trials))
    for job in (first, *first.teachers):
        assert job.config.dataset.validation == 10
        assert job.path.is_relative_to(tmp_path / "it's" / TRIALS)
    temperatures = [each.config.method.losses["st"]["temperature"] for each in (first, second)]
    assert len(set(temperatures)) == 2
    assert {each.config.seed for each in (first, second)} == {3}
    assert first.teachers == second.teachers


@pytest.mark.slow
def test_a_fifth_of_the_training_images_is_held_out_unless_a_number_is_given():
    launchers.register()
    with compose.initialized():
        assert Tuning([JOB], 1, None).plans[0].validation == 8  # of 40


@pytest.mark.slow
def test_the_validation_accuracy_decides_and_test_accuracies_do_not_matter(tuning, trials, capsys):
    set_validation(trials[0], 40.0)
    set_validation(trials[1], 60.0)
    studies = tuning.studies()
    (run,) = tuning.chosen(studies)
    (study,) = studies
    assert study.chosen == study.trials[1]
    assert "best of 2 trials with 60.00 % of 10 validation images" in capsys.readouterr().out
    chosen = resolve_job(*compose_jobs([run])[0])
    temperature = "method.losses.st.temperature"
    assert chosen.changed[temperature] == study.chosen.values[temperature]
    assert chosen.config.dataset.validation == 0
    assert chosen.config.seed == 3
    stored = json.loads((chosen.path / STUDY).read_text())
    assert Study.from_json(stored) == study
    assert stored["chosen"] == 1
    for job, accuracy in zip(trials, (100.0, 0.0), strict=True):
        values = json.loads((job.path / RESULT).read_text())["accuracy"]
        rewrite_record(job.path, accuracy=dict.fromkeys(values, accuracy) | {"best_epoch": 1})
    assert tuning.studies() == studies
    set_validation(trials[0], 70.0)
    assert tuning.studies()[0].chosen.values == study.trials[0].values


@pytest.mark.slow
def test_a_diverged_trial_counts_but_a_lost_one_does_not(tuning, trials):
    (trials[1].path / RESULT).unlink()
    assert tuning.studies() is None
    (trials[1].path / ERROR).write_text("MemoryError\n")
    assert tuning.studies() is None
    (trials[1].path / ERROR).write_text("FloatingPointError: the loss is not finite\n")
    (study,) = tuning.studies()
    assert study.trials[1].validation_accuracy is None
    assert study.chosen == study.trials[0]
    (trials[0].path / HISTORY).write_text("epoch\n1\n")
    with pytest.raises(DamagedError, match="delete its folder to run the trial again"):
        validation_accuracy(trials[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=lwm"], "lwm has no `search:` in its YAML.*add ranges, such as search: "),
        (["method.weights.st=2"], "method.weights.st is tuned, so its value must not be given"),
    ],
)
def test_impossible_tuning_is_refused_before_training(words, message):
    launchers.register()
    with compose.initialized(), pytest.raises(UserError, match=message):
        Tuning([(*JOB, *words)], 2, None)
