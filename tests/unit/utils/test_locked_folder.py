"""Only the process that holds a folder's lock changes files in it."""

import os
import shutil
from pathlib import Path

import pytest

from kd_bench.utils.lock import Locked
from kd_bench.utils.locked_folder import LockedFolder


def take_over(folder: Path) -> None:
    """Take over a folder's lock, as a process on another host would."""
    (owner,) = (folder / "lock").iterdir()
    owner.rename(owner.with_name("elsewhere~1~2,42,7"))


CHANGES = {
    "write": lambda folder: folder.write("a", "new"),
    "write_json": lambda folder: folder.write_json("a", "new"),
    "rename": lambda folder: folder.rename("b", "a"),
    "remove": lambda folder: folder.remove("a"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_process_that_lost_its_lock_changes_nothing(tmp_path, change):
    with LockedFolder(tmp_path) as folder:
        folder.write("a", "old")
        folder.write("b", "other")
        take_over(tmp_path)
        with pytest.raises(Locked, match="process 42 on elsewhere, which took over"):
            change(folder)
    assert (tmp_path / "a").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "lock"]  # no part file, and their lock


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_lost_lock_stays_lost_after_the_new_owner_has_ended(tmp_path, change):
    with LockedFolder(tmp_path) as folder:
        folder.write("a", "old")
        folder.write("b", "other")
        take_over(tmp_path)
        shutil.rmtree(tmp_path / "lock")
        with pytest.raises(Locked, match="another process, which took over"):
            change(folder)
        assert (tmp_path / "a").read_text() == "old"


def test_the_lock_is_checked_after_the_content_is_on_disk(tmp_path, monkeypatch):
    # Flushing may take minutes on a busy file system: long enough for a takeover.
    flush = os.fsync
    with LockedFolder(tmp_path) as folder:
        folder.write("a", "old")
        monkeypatch.setattr(os, "fsync", lambda file: (flush(file), take_over(tmp_path)))
        with pytest.raises(Locked):
            folder.write("a", "new")
    assert (tmp_path / "a").read_text() == "old"


def test_a_deleted_folder_is_an_error_with_its_name(tmp_path):
    (tmp_path / "job").mkdir()
    with LockedFolder(tmp_path / "job") as folder:
        shutil.rmtree(tmp_path / "job")
        with pytest.raises(FileNotFoundError, match="job"):
            folder.remove("a")
