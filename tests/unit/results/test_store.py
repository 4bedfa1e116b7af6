"""Reading records and failures from runs folders."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from helpers.damage import damaged
from helpers.jobs import job
from helpers.paths import ROOT
from helpers.written_records import record, write
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_bench.config.identity import digest
from kd_bench.jobs.job import read_jobs, write_jobs
from kd_bench.jobs.resolve import resolve_job
from kd_bench.results.record import CHECKSUM, Failure, Record
from kd_bench.results.run_folder import (
    read_error,
    read_record,
    read_sweep_file,
    write_sweep_file,
)
from kd_bench.results.store import read_failures, read_records
from kd_bench.utils.errors import DamagedError, UserError


def test_records_are_found_anywhere_below_a_folder(tmp_path):
    records = [record(), record("st")]
    write(tmp_path / "deep", records)
    assert read_records(tmp_path) == records


def test_a_failure_has_the_first_line_of_its_error_unless_the_job_finished_later(tmp_path):
    write(tmp_path, [record(seed=0)])
    for seed in (0, 1):
        folder = tmp_path / record(seed=seed).folder
        folder.mkdir(exist_ok=True)
        (folder / "error.txt").write_text("ValueError: no\n\nTraceback ...\n")
    (tmp_path / "error.txt").write_text("of no job\n")
    assert read_failures(tmp_path / "digits") == [Failure(record(seed=1).folder, "ValueError: no")]


def test_a_failure_of_a_sweep_includes_its_job(tmp_path):
    failed = replace(job(tmp_path, "method=st"), changed={"recipe.epochs": 2})
    failed.path.mkdir(parents=True)
    (failed.path / "error.txt").write_text("ValueError: no\n")
    write_jobs([failed], "mine")
    assert read_failures(tmp_path) == [
        Failure(failed.folder, "ValueError: no", failed.identity, failed.config, failed.changed)
    ]


@pytest.mark.parametrize(
    ("content", "kind", "reason"),
    [
        ("", DamagedError, "not a valid record"),
        ("{", DamagedError, "not a valid record"),
        ("[]", DamagedError, "not a valid record"),
        ("\0" * 900, DamagedError, "not a valid record"),
        ('{"format": 7}', UserError, "format 7, but this version of kd-bench reads 1; use"),
    ],
    ids=str,
)
def test_an_invalid_record_is_reported_and_left_out(tmp_path, capsys, content, kind, reason):
    write(tmp_path, [record(seed=0)])
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "result.json").write_text(content)
    with pytest.raises(UserError, match=f"bad/result.json.*{reason}") as refused:
        read_record(tmp_path / "bad")
    assert type(refused.value) is kind
    assert read_records(tmp_path) == [record(seed=0)]
    printed = capsys.readouterr().err
    assert printed == f"kd-bench: left out: {refused.value}\n"


def test_the_record_of_another_job_is_left_out(tmp_path, capsys):
    write(tmp_path, [record(seed=0)])
    shutil.copytree(tmp_path / record(seed=0).folder, tmp_path / record(seed=1).folder)
    assert read_records(tmp_path) == [record(seed=0)]
    assert capsys.readouterr().err.endswith(f"is the record of {record(seed=0).folder}\n")


SHORT = json.dumps(record("st").to_json()).encode()


@pytest.mark.slow
@settings(deadline=None)
@given(st.data())
def test_a_damaged_record_is_refused_in_one_line_and_never_misread(data):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "result.json"
        path.write_bytes(data.draw(damaged(SHORT)))
        try:
            read, refusal = read_record(Path(folder)), f"{path} was read"
        except UserError as error:
            read, refusal = None, str(error)
    assert read in (None, record("st"))
    assert refusal.startswith(str(path))
    assert "\n" not in refusal


@pytest.mark.slow
@settings(deadline=None)
@given(st.data())
def test_a_damaged_sweep_file_is_refused_in_one_line(data):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "mine.jsonl"
        write_sweep_file(path, ['{"a": 1}', '{"b": 2}'])
        path.write_bytes(data.draw(damaged(path.read_bytes())))
        with pytest.raises(DamagedError, match="delete it: the jobs stay") as refused:
            read_sweep_file(path)
        assert "\n" not in str(refused.value)


def test_a_sweep_whose_folder_disappeared_is_reported_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"/\.sweeps disappeared; start the same command again"):
        write_sweep_file(tmp_path / ".sweeps" / "mine.jsonl", ["{}"])


@settings(deadline=None)
@given(st.binary(max_size=80))
def test_the_reason_in_any_error_file_is_one_readable_line(content):
    with TemporaryDirectory() as folder:
        (Path(folder) / "error.txt").write_bytes(content)
        reason = read_error(Path(folder))
    assert reason
    assert reason.isprintable()


def test_failures_of_a_damaged_sweep_file_are_read_without_it(tmp_path, capsys):
    failed = job(tmp_path, "method=st")
    failed.path.mkdir(parents=True)
    (failed.path / "error.txt").write_text("ValueError: no\n")
    path = write_jobs([failed], "mine")
    path.write_bytes(path.read_bytes()[:100])
    assert read_failures(tmp_path) == [Failure(failed.folder, "ValueError: no")]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"kd-bench: left out: {path} is damaged, or was written by another")


def test_a_missing_folder_is_reported(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        read_records(tmp_path / "nowhere")


def test_a_record_is_unchanged_after_json():
    written = record("st", best_val=91.0, changed={"teacher.seed": 1})
    assert Record.from_json(json.loads(json.dumps(written.to_json()))) == written


def with_value(plain, path, value):
    *sections, name = path.split(".")
    section = plain
    for part in sections:
        section = section[part]
    section[name] = value
    return plain


@pytest.mark.parametrize("views", ["many", -1, [2]])
def test_a_record_with_unsortable_views_per_step_is_refused(tmp_path, views):
    plain = record("st").to_json() | {"views_per_step": views}
    plain.pop(CHECKSUM)
    (tmp_path / "result.json").write_text(json.dumps(plain))
    with pytest.raises(
        UserError, match=r"result.json is not a valid record: .*views_per_step must be"
    ):
        read_record(tmp_path)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("folder", "../../elsewhere/a-b/st/0123abcd/seed0"),
        ("teacher.folder", "/elsewhere"),
        ("digest", "../../x"),
        ("config.dataset.name", ".."),
        ("config.teacher.model.name", "../../x"),
        ("config.method.name", ".hidden"),
        ("config.seed", "0/../../../../../../x"),
    ],
)
def test_a_record_with_names_outside_the_runs_folder_is_refused_with_the_key(tmp_path, path, value):
    plain = with_value(record("st").to_json(), path, value)
    plain.pop(CHECKSUM)
    (tmp_path / "result.json").write_text(json.dumps(plain))
    name = path.removeprefix("config.").rpartition(".")[2]
    with pytest.raises(UserError, match=rf"result.json is not a valid record: .*{name}"):
        read_record(tmp_path)


@pytest.mark.slow
def test_a_sweep_with_jobs_outside_the_runs_folder_is_refused(tmp_path):
    path = write_jobs([job(tmp_path)], "mine")
    path.write_text(path.read_text().replace('"folder": "synthetic/', '"folder": "../../x/'))
    with pytest.raises(UserError, match=r"mine\.jsonl"):
        read_jobs(path)


@pytest.mark.slow
def test_every_published_record_has_the_folder_of_its_configuration():
    records = read_records(ROOT / "results")
    assert len(records) > 100
    for published in records:
        resolved = resolve_job(published.config, published.changed)
        assert resolved.folder == published.folder
        assert resolved.identity == published.identity
        assert digest(resolved.identity) == published.digest
