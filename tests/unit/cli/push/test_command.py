"""kd-bench push: runs are pushed to real local trackers once, and replaced when they change."""

from __future__ import annotations

import importlib.util
import json
import struct

import pytest
from helpers.jobs import rewrite_record
from helpers.written_records import record, write

from kd_bench.results.run_folder import HISTORY

ROWS = "stage,epoch,test_accuracy\nmain,1,50.0\nmain,2,60.0\n"
RUNS = [record("baseline", 0, 89.0), record("st", 0, 90.0), record("st", 1, 91.0)]


@pytest.fixture
def runs(tmp_path):
    """runs/ with a baseline and two seeds of st; returns the folder of the last."""
    write(tmp_path / "runs", RUNS)
    for each in RUNS:
        (tmp_path / "runs" / each.folder / HISTORY).write_text(ROWS)
    return tmp_path / "runs" / RUNS[-1].folder


def needs(library):
    """Skip the test if the library is not installed."""
    missing = importlib.util.find_spec(library) is None
    reason = f"{library} is not installed: pip install 'kd-bench[{library}]'"
    return pytest.mark.skipif(missing, reason=reason)


def pushed(kd_bench, *words):
    code, printed = kd_bench("push", "--to", *words)
    assert code == 0, printed
    return printed


@pytest.mark.slow
@needs("mlflow")
def test_mlflow_has_each_run_once_with_configuration_metrics_and_curves(
    kd_bench, runs, tmp_path, monkeypatch
):
    from mlflow import MlflowClient, set_tracking_uri

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    set_tracking_uri(uri)
    assert "pushed 3 of 3 run" in pushed(kd_bench, "mlflow")
    assert "pushed 0 of 3 run" in pushed(kd_bench, "mlflow")
    client = MlflowClient()
    experiment = client.get_experiment_by_name("kd-bench").experiment_id
    found = {run.info.run_name: run for run in client.search_runs([experiment])}
    assert set(found) == {each.folder for each in RUNS}
    run = found[RUNS[-1].folder]
    assert run.info.status == "FINISHED"
    assert run.data.tags.items() >= {"method": "st", "seed": "1", "dataset": "digits"}.items()
    assert run.data.params["method.losses.st.temperature"] == "4"
    assert run.data.metrics["final/last"] == 91.0
    curve = client.get_metric_history(run.info.run_id, "test_accuracy")
    assert [(each.step, each.value) for each in curve] == [(1, 50.0), (2, 60.0)]
    rewrite_record(runs, seconds=61.0)
    assert "pushed 1 of 3 run" in pushed(kd_bench, "mlflow")
    (again,) = client.search_runs([experiment], "tags.seed = '1'")
    assert again.data.metrics["final/seconds"] == 61.0


@pytest.mark.slow
@needs("trackio")
def test_trackio_has_each_run_once_with_configuration_metrics_and_curves(
    kd_bench, runs, tmp_path, monkeypatch
):
    import trackio
    from trackio import sqlite_storage
    from trackio.sqlite_storage import SQLiteStorage

    monkeypatch.setattr(sqlite_storage, "TRACKIO_DIR", tmp_path / "trackio")
    assert "pushed 3 of 3 run" in pushed(kd_bench, "trackio")
    assert "pushed 0 of 3 run" in pushed(kd_bench, "trackio")
    found = {run.name: run for run in trackio.Api().runs("kd-bench")}
    assert set(found) == {each.folder for each in RUNS}
    run = found[RUNS[-1].folder]
    assert run.config["method.losses.st.temperature"] == 4
    logs = SQLiteStorage.get_logs("kd-bench", run.name, run_id=run.id)
    curve = [(each["step"], each["test_accuracy"]) for each in logs if "test_accuracy" in each]
    assert curve == [(1, 50.0), (2, 60.0)]
    assert logs[-1]["final/last"] == 91.0
    rewrite_record(runs, seconds=61.0)
    assert "pushed 1 of 3 run" in pushed(kd_bench, "trackio")
    (again,) = [each for each in trackio.Api().runs("kd-bench") if each.name == run.name]
    logs = SQLiteStorage.get_logs("kd-bench", run.name, run_id=again.id)
    assert logs[-1]["final/seconds"] == 61.0


def wandb_records(content):
    """The records of a .wandb file: a header of 7 bytes, then a log in LevelDB's format.

    In blocks of 32 KiB, each chunk has a checksum (4 bytes), a length (2) and a type (1): 1 for a
    full record, 2 for the first, 3 for a middle and 4 for the last part of a record.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    place, data = 7, b""
    while place < len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
        length, kind = struct.unpack_from("<HB", content, place + 4)
        data += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield Record.FromString(data)
            data = b""


@pytest.mark.slow
@needs("wandb")
def test_wandb_gets_a_complete_offline_run_once(kd_bench, runs, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    assert "pushed 1 of 1 run" in pushed(kd_bench, "wandb", "--from", str(runs))
    assert "pushed 0 of 1 run" in pushed(kd_bench, "wandb", "--from", str(runs))
    (file,) = tmp_path.glob("wandb/*/*.wandb")
    assert [path.name for path in (tmp_path / "wandb").iterdir()] == [file.parent.name]
    records = list(wandb_records(file.read_bytes()))
    (run,) = [each.run for each in records if each.WhichOneof("record_type") == "run"]
    assert run.display_name == RUNS[-1].folder
    assert run.run_group == "digits/resnet20-resnet8/st"
    config = {each.key: json.loads(each.value_json) for each in run.config.update}
    assert config["method.losses.st.temperature"] == 4
    items = [item for each in records for item in each.history.item]
    curve = [item.value_json for item in items if "test_accuracy" in (item.key, *item.nested_key)]
    assert [*map(float, curve)] == [50.0, 60.0]
    items = [item for each in records for item in each.summary.update]
    last = [item.value_json for item in items if "final/last" in (item.key, *item.nested_key)]
    assert {*map(float, last)} == {91.0}


@pytest.mark.parametrize("library", ["mlflow", "trackio", "wandb"])
def test_a_missing_library_is_reported_with_its_extra(kd_bench, runs, monkeypatch, library):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, printed = kd_bench("push", "--to", library)
    assert (code, printed) == (
        2,
        f"kd-bench: kd-bench push --to {library} needs {library}, which is not installed:"
        f' pip install "kd-bench[{library}]"\n',
    )


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ([], "the following arguments are required: --to"),
        (["--to", "comet"], "--to: unknown 'comet'; choose from mlflow, trackio, wandb"),
    ],
    ids=str,
)
def test_a_mistake_is_reported_in_one_line(kd_bench, words, answer):
    code, printed = kd_bench("push", *words)
    assert (code, printed.count("\n")) == (2, 1), printed
    assert answer in printed
