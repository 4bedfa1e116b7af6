"""Atomic writes, durable on disk, and hashes of values."""

import errno
import os
from contextlib import nullcontext

import pytest

from kd_bench.utils import files
from kd_bench.utils.errors import UserError


def test_the_hash_of_a_value_does_not_depend_on_the_order_of_its_keys():
    # echo -n '{"a":1,"b":[2,null]}' | sha256sum
    expected = "cc243773f70c3dff1b2058928d222d7edc29130da3f617c0e8ce04096aca153c"
    assert files.json_hash({"b": [2, None], "a": 1}, 64) == expected
    assert files.json_hash({"a": 1, "b": [2, None]}, 8) == expected[:8]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    files.atomic_write(path, "old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        files.atomic_write(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.json"]


def test_the_folder_is_flushed_after_each_rename(tmp_path, monkeypatch):
    events = []
    flush, replace = os.fsync, os.replace

    def see_flush(file):
        events.append(os.readlink(f"/proc/self/fd/{file}"))
        flush(file)

    def see_rename(old, new):
        events.append(f"rename {new.name}")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", see_flush)
    monkeypatch.setattr(os, "replace", see_rename)
    files.atomic_write(tmp_path / "weights.pt", b"1")
    files.atomic_write(tmp_path / "result.json", "{}")
    assert events[1:3] == ["rename weights.pt", str(tmp_path)]
    assert events[4:6] == ["rename result.json", str(tmp_path)]


@pytest.mark.parametrize(("code", "is_fine"), [(errno.EINVAL, True), (errno.EIO, False)])
def test_a_file_system_that_cannot_flush_folders_is_accepted(tmp_path, monkeypatch, code, is_fine):
    flush = os.fsync

    def fail(file):
        if os.path.isdir(f"/proc/self/fd/{file}"):
            raise OSError(code, "no")
        flush(file)

    monkeypatch.setattr(os, "fsync", fail)
    with nullcontext() if is_fine else pytest.raises(OSError, match="no"):
        files.atomic_write(tmp_path / "a", "1")


def test_an_unwritable_folder_is_an_error_with_the_remedy(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="runs_dir=DIR"):
        files.ensure_writable_dir(tmp_path / "file" / "runs")
