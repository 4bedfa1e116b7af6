"""The parts of a run that are pushed: its names, all of its numbers, and its curves."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers.written_records import record, write

from kd_bench.cli.push.runs import tracked
from kd_bench.results.record import Corrupted, Probe
from kd_bench.results.run_folder import HISTORY
from kd_bench.utils.errors import DamagedError

ROWS = "stage,epoch,lr,ce,test_accuracy\ninit,1,0.1,,50.0\nmain,2,0.1,1.5,60.0\n"


@pytest.fixture
def of(tmp_path):
    """The tracked run of a record with a history."""

    def make(written, history=ROWS):
        write(tmp_path, [written])
        folder = tmp_path / written.folder
        (folder / HISTORY).write_text(history)
        return tracked(folder, written)

    return make


def test_a_run_is_named_by_its_folder_and_grouped_with_its_other_seeds(of):
    hot = {"changed": {"method.losses.st.temperature": 8}}
    first, second = of(record("st", 0, **hot)), of(record("st", 1, **hot))
    assert first.name == record("st", 0, **hot).folder
    assert first.group == second.group == "digits/resnet20-resnet8/st (temperature=8)"
    assert second.labels == {
        "dataset": "digits",
        "pair": "resnet20-resnet8",
        "method": "st",
        "recipe": "quickstart",
        "seed": "1",
    }
    assert first.config["method.losses.st.temperature"] == 8


def test_its_numbers_are_all_metrics_that_a_table_can_show(of):
    corrupted = Corrupted(1, {"fog": [60.0] * 5}, {"saturate": [80.0] * 5})
    probes = {"cifar10": Probe(55.5, {}, "images", 1)}
    run = of(record("st", accuracy=91.0, best=92.0, corrupted=corrupted, probes=probes))
    assert {
        "final/last": 91.0,
        "final/best": 92.0,
        "final/agreement": 95.0,
        "final/seconds": 60.0,
        "final/corrupted": 60.0,
        "final/corrupted/saturate": 80.0,
        "final/probe/cifar10": 55.5,
    }.items() <= run.metrics.items()
    assert "final/nll" not in run.metrics  # not in the record


def test_its_curves_are_the_columns_of_its_history(of):
    assert of(record()).curves == [
        (1, {"lr": 0.1, "test_accuracy": 50.0}),
        (2, {"lr": 0.1, "ce": 1.5, "test_accuracy": 60.0}),
    ]


def test_its_content_hash_depends_on_record_and_history(of):
    run = record()
    other = [of(replace(run, seconds=61.0)), of(run, ROWS.replace("60.0", "61.0"))]
    assert len({each.content for each in [of(run), *other]}) == 3
    assert of(run).content == of(run).content


@pytest.mark.parametrize("history", ["epoch\nx\n", "lr\n1\n", "epoch,lr\n1,fast\n"])
def test_a_damaged_history_is_reported(of, history):
    with pytest.raises(DamagedError, match=r"history\.csv is damaged"):
        of(record(), history)
