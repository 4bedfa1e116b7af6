"""tools/overhead.py measures how a sweep spends its time."""

import importlib.util
import sys

import pytest
from helpers.paths import TOOLS
from helpers.written_records import record

from kd_bench.results.store import read_records
from kd_bench.results.table import table_from


@pytest.fixture
def overhead(monkeypatch):
    spec = importlib.util.spec_from_file_location("tools_overhead", TOOLS / "overhead.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "tools_overhead", module)  # its dataclasses look it up there
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_every_part_of_a_sweeps_time_is_measured_and_printed(overhead, capsys):
    measured = overhead.measure_overhead(jobs=5, slots=2, tensorboard=False)
    assert measured.jobs == 6  # including the teacher
    assert all(seconds > 0 for seconds in measured.parts.values())
    overhead.show_overhead(measured)
    printed = capsys.readouterr().out
    assert printed.startswith("6 jobs in 2 slots: ")
    assert all(name in printed for name in measured.parts)


@pytest.mark.slow
def test_a_table_of_generated_records_has_as_many_runs(overhead, tmp_path):
    overhead.write_copies(record("st"), tmp_path, number=60, seeds=2)
    table = table_from(read_records(tmp_path))
    assert len(table.runs) == 60
    assert len(table.rows) == 25  # 30 cells: 25 methods of a student, 5 of another
    assert len(table.columns) == 2
