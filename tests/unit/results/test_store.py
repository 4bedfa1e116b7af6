"""Records and failures are read from folders of runs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from helpers.jobs import job
from helpers.paths import ROOT
from helpers.written_records import record, write

from kd_bench.config.identity import digest
from kd_bench.jobs.job import read_jobs, write_jobs
from kd_bench.jobs.resolve import resolve_job
from kd_bench.results.record import Failure, Record
from kd_bench.results.run_folder import read_record
from kd_bench.results.store import read_failures, read_records
from kd_bench.utils.errors import UserError


def test_records_are_found_anywhere_below_a_folder(tmp_path):
    records = [record(), record("st")]
    write(tmp_path / "deep", records)
    assert read_records(tmp_path) == records


def test_a_failure_is_the_first_line_of_its_error_unless_the_job_was_finished_since(tmp_path):
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


@pytest.mark.parametrize(("content", "reason"), [("{", "no record"), ('{"format": 7}', "format 7")])
def test_a_file_that_is_no_record_is_named(tmp_path, content, reason):
    (tmp_path / "result.json").write_text(content)
    for read in (read_records, read_record):
        with pytest.raises(UserError, match=f"result.json.*{reason}"):
            read(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        read_records(tmp_path / "nowhere")


def test_a_record_survives_its_file():
    written = record("st", best_val=91.0, changed={"teacher.seed": 1})
    assert Record.from_json(json.loads(json.dumps(written.to_json()))) == written


def with_value(plain, path, value):
    *sections, name = path.split(".")
    section = plain
    for part in sections:
        section = section[part]
    section[name] = value
    return plain


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
def test_a_record_whose_names_lead_elsewhere_is_refused_by_its_name(tmp_path, path, value):
    plain = with_value(record("st").to_json(), path, value)
    (tmp_path / "result.json").write_text(json.dumps(plain))
    name = path.removeprefix("config.").rpartition(".")[2]
    with pytest.raises(UserError, match=rf"result.json is no record: .*{name}"):
        read_record(tmp_path)


def test_a_sweep_whose_jobs_lead_elsewhere_is_refused(tmp_path):
    path = write_jobs([job(tmp_path)], "mine")
    path.write_text(path.read_text().replace('"folder": "synthetic/', '"folder": "../../x/'))
    with pytest.raises(UserError, match=r"mine\.jsonl"):
        read_jobs(path)


def test_every_published_record_has_the_folder_of_its_configuration():
    records = read_records(ROOT / "results")
    assert len(records) > 100
    for published in records:
        resolved = resolve_job(published.config, published.changed)
        assert resolved.folder == published.folder
        assert resolved.identity == published.identity
        assert digest(resolved.identity) == published.digest
