"""Studies on disk, and their runs in tables: separate rows, and the caption."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers.written_records import record, seeds, write

from kd_bench.config.search import Range
from kd_bench.results.record import Failure
from kd_bench.results.rendering.caption import caption_sentences
from kd_bench.results.store import read_records
from kd_bench.results.study import STUDY, Study, Trial, read_study
from kd_bench.results.table import table_from
from kd_bench.utils.errors import DamagedError, UserError
from kd_bench.utils.files import write_json

TEMPERATURE = "method.losses.st.temperature"
SPACES = {
    "st": {TEMPERATURE: Range(1, 16, is_log=True)},
    "baseline": {"recipe.lr": Range(0.005, 0.5, is_log=True)},
}


def study_of(published, *scores, space=None):
    """A study with these validation accuracies, whose trials have the values 1, 2, ..."""
    space = SPACES[published.config.method.name] if space is None else space
    trials = [Trial(dict.fromkeys(space, n), score) for n, score in enumerate(scores, start=1)]
    return Study(published.seed, 100, space, tuple(trials), published.identity)


def tuned(method, seed, accuracy, *scores, **settings):
    """The record of a run with the values that a study chose."""
    study = study_of(record(method, seed), *scores)
    changed = dict(study.chosen.values)
    return replace(record(method, seed, accuracy, changed=changed, **settings), study=study)


RUNS = [
    *seeds("baseline", 90.0, 91.0, 92.0),
    *seeds("st", 91.0, 92.5, 93.0),
    *(
        tuned("st", seed, 92.0 + seed, *scores)
        for seed, scores in enumerate([(1, 2), (2, 1), (3, 4)])
    ),
    *(tuned("baseline", seed, 90.5 + seed, 1, 2) for seed in range(3)),
]


def test_the_first_of_the_best_trials_with_a_finite_loss_is_chosen():
    study = study_of(record("st"), None, 95.0, 97.0, 97.0)
    assert study.chosen == study.trials[2]
    with pytest.raises(UserError, match="study 0: no trial has a finite loss"):
        study_of(record("st"), None, None).chosen  # noqa: B018


def test_a_study_is_unchanged_after_writing_and_reading(tmp_path):
    study = study_of(record("st", 1), None, 95.0)
    write_json(tmp_path / STUDY, study.to_json())
    assert read_study(tmp_path) == study
    assert read_study(tmp_path / "elsewhere") is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"seed": 1', '{"space": [1]}'])
def test_an_invalid_study_file_is_damaged(tmp_path, content):
    (tmp_path / STUDY).write_text(content)
    with pytest.raises(DamagedError, match="is not a valid study; delete it"):
        read_study(tmp_path)


def test_a_record_is_read_with_its_study_unless_the_study_is_damaged(tmp_path, capsys):
    done, damaged = tuned("st", 0, 90.0, 1, 2), tuned("st", 1, 90.0, 1, 2)
    write(tmp_path, [done, damaged])
    write_json(tmp_path / done.folder / STUDY, done.study.to_json())
    (tmp_path / damaged.folder / STUDY).write_text("{")
    assert [each.study for each in read_records(tmp_path)] == [done.study, None]
    assert "left out:" in capsys.readouterr().err
    assert "study" not in done.to_json()


def test_published_and_tuned_values_are_two_rows_of_one_column():
    table = table_from(RUNS)
    assert list(table.rows) == ["baseline", "baseline (tuned)", "st", "st (tuned)"]
    (column,) = table.columns
    cells = table.under(column)
    assert cells["st (tuned)"].values == {0: 92.0, 1: 93.0, 2: 94.0}
    assert cells["baseline (tuned)"].values == {0: 90.5, 1: 91.5, 2: 92.5}
    assert cells["st (tuned)"].delta.mean == pytest.approx(2.0)


def test_labels_of_tuned_rows_have_no_values():
    warm = [*RUNS, *seeds("st", 90.0, changed={TEMPERATURE: 8})]
    rows = list(table_from(warm).rows)
    assert rows[2:] == ["st (temperature=4)", "st (temperature=8)", "st (tuned)"]


def test_studies_with_different_numbers_of_trials_have_separate_rows():
    more = [tuned("st", 0, 94.0, 1, 2, 3)]
    rows = list(table_from([*RUNS, *more]).rows)
    assert rows[-2:] == ["st (tuned, 2 trials)", "st (tuned, 3 trials)"]


def test_studies_with_different_ranges_are_never_averaged():
    study = replace(RUNS[6].study, space={TEMPERATURE: Range(1, 32, is_log=True)})
    mixed = [replace(each, study=study) if each is RUNS[6] else each for each in RUNS]
    with pytest.raises(UserError, match=rf"study.{TEMPERATURE}.high is 16 in .*, 32 in "):
        table_from(mixed)


def test_a_failed_run_of_a_study_is_in_its_row():
    last = RUNS[8]
    failure = Failure(last.folder, "no", last.identity, last.config, last.changed, last.study)
    table = table_from([*RUNS[:8], *RUNS[9:]], [failure])
    assert table.cells["st (tuned)", table.columns[0].label].failed == 1


def test_the_caption_has_trials_and_knobs_only_if_a_row_is_tuned():
    assert not [text for text in caption_sentences(table_from(RUNS[:6])) if "tuned" in text]
    (told,) = [text for text in caption_sentences(table_from(RUNS)) if "trials" in text]
    assert "accuracy on 100 validation images" in told
    assert "the best of 2 trials (scrambled Sobol points)" in told
    knobs = "baseline (tuned): recipe.lr 0.005 to 0.5; st (tuned): losses.st.temperature 1 to 16"
    assert told.endswith(f"Ranges: {knobs}.")
