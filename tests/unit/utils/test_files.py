"""Files that appear whole or not at all."""

import os

import pytest

from kd_bench.utils import files
from kd_bench.utils.errors import UserError


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    files.atomic_write(path, "old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        files.atomic_write(path, "new")
    assert path.read_text() == "old"


def test_an_unwritable_place_is_answered_with_the_remedy(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="runs_dir=DIR"):
        files.ensure_writable_dir(tmp_path / "file" / "runs")
