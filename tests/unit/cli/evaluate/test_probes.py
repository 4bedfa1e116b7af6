"""kd-bench evaluate --probe: linear probes of finished runs, trained once per dataset."""

from __future__ import annotations

import pytest
from helpers.jobs import rewrite_record

from kd_bench.jobs.evaluation import probe
from kd_bench.results.run_folder import read_record

OTHER = (
    "dataset=synthetic",
    "dataset.name=larger",
    "dataset.source.train=60",
    "dataset.source.test=30",
    "dataset.source.num_classes=3",
    "dataset.source.size=12",
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Train probes for 3 epochs; returns (features' shape, classes, seed) of each training."""
    trained, train = [], probe.train_classifier
    monkeypatch.setattr(probe, "EPOCHS", 3)

    def counted(features, num_classes, seed):
        trained.append((tuple(features.value.shape), num_classes, seed))
        return train(features, num_classes, seed)

    monkeypatch.setattr(probe, "train_classifier", counted)
    return trained


@pytest.mark.slow
def test_each_run_is_probed_once_and_tables_show_the_accuracy(kd_bench, finished, quick):
    student, teacher = finished
    code, printed = kd_bench("evaluate", student, teacher, "--probe", *OTHER)
    assert code == 0, printed
    assert quick == [((60, 16), 3, 0), ((60, 64), 3, 0)]
    for folder in finished:
        found = read_record(folder).probes["larger"]
        assert f"{folder}: {found.accuracy:.2f} % of larger by a linear probe, added" in printed
        assert found.dataset["source"]["size"] == 12
    again = kd_bench("evaluate", student, teacher, "--probe", *OTHER)[1]
    assert (len(quick), again.count("as recorded")) == (2, 2)
    accuracy = read_record(student).probes["larger"].accuracy
    command = "table", "--pair", student.parts[-4], "--format", "csv", "--metric"
    assert f",{accuracy:.4f}," in kd_bench(*command, "probe:larger")[1]
    printed = kd_bench(*command, "probe:none")[1]
    assert "no run has probe:none; `kd-bench evaluate RUN --probe dataset=none` adds it" in printed


@pytest.mark.slow
def test_a_second_dataset_is_added_and_a_changed_one_replaces_its_probe(kd_bench, finished, quick):
    student, _ = finished
    for words in (OTHER, (*OTHER, "dataset.name=second"), (*OTHER, "dataset.source.size=10")):
        kd_bench("evaluate", student, "--probe", *words)
    probes = read_record(student).probes
    assert (list(probes), len(quick)) == (["larger", "second"], 3)
    assert probes["larger"].dataset["source"]["size"] == 10


@pytest.mark.slow
def test_a_probe_of_an_older_revision_is_trained_again(kd_bench, finished, quick):
    student, _ = finished
    kd_bench("evaluate", student, "--probe", *OTHER)
    old = vars(read_record(student).probes["larger"]) | {"revision": 0}
    rewrite_record(student, probes={"larger": old})
    kd_bench("evaluate", student, "--probe", *OTHER)
    assert len(quick) == 2
    assert read_record(student).probes["larger"].revision == probe.REVISION


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--probe", "cifar10"], "--probe takes dataset=NAME and its values"),
        (["--probe", "model=resnet20"], "after the runs; got model=resnet20"),
        (["--probe", "dataset=digit"], "unknown dataset 'digit'; choose from "),
        (["--probe"], "argument --probe: expected at least one argument"),
    ],
    ids=str,
)
def test_a_mistake_is_reported_in_one_line(kd_bench, finished, quick, words, answer):
    code, printed = kd_bench("evaluate", finished[0], *words)
    assert (code, printed.count("\n"), quick) == (2, 1, []), printed
    assert answer in printed


@pytest.mark.slow
def test_a_network_without_the_probed_stage_is_refused(kd_bench, finished):
    student, _ = finished
    record = read_record(student)
    stages = {name: path for name, path in record.config.model.stages.items() if name != "pooled"}
    config = record.to_json()["config"]
    config["model"]["stages"] = stages or {"stem": "relu"}
    rewrite_record(student, config=config)
    code, printed = kd_bench("evaluate", student, "--probe", *OTHER)
    assert (code, printed.count("\n")) == (2, 1), printed
    assert "has no stage 'pooled', which a linear probe needs" in printed
