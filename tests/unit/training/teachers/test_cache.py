"""The table of a teacher's outputs for all views: equal outputs, computed once, shared by jobs."""

from __future__ import annotations

import csv
import shutil
import threading
from pathlib import Path

import pytest
import torch
from helpers.jobs import job, setup_of, trained

from kd_bench.interfaces import Batch
from kd_bench.jobs import validate
from kd_bench.results import run_folder
from kd_bench.training.setup import TrainingSetup
from kd_bench.training.teachers import cache as teacher_cache
from kd_bench.training.teachers.teacher import Teacher
from kd_bench.utils import lock
from kd_bench.utils.errors import UserError

TOLERANCE = 1e-5  # relative, of logits: a batch of another size may be summed in another order
TABLE = "teacher.source=table"


def assembled(runs: Path, *overrides: str) -> TrainingSetup:
    return setup_of(job(runs, *overrides))


def batch(work: TrainingSetup, index: list[int], view: list[int]) -> Batch:
    index, view = torch.tensor(index), torch.tensor(view)
    image = work.data.augmented_batch(index, view)
    return Batch(image, work.data.train.target[index], index, torch.ones(()), view)


def history(folder: Path) -> list[dict[str, float]]:
    rows = csv.DictReader((folder / "history.csv").open())
    return [{k: float(v) for k, v in row.items() if k != "stage"} for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["st", "pkt"])  # pkt reads the pooled features
def test_the_row_of_a_view_is_the_teachers_output_for_it(runs, method):
    online, table = (
        assembled(runs, f"method={method}", s) for s in ("teacher.source=online", TABLE)
    )
    views = range(table.data.view_count)
    assert len(views) == 9  # crops of a padding of 1, no flip
    for image in (0, 7, 39):
        some = batch(table, [image] * 9, list(views))
        expected, looked_up = online.teacher(some.image), table.teacher.forward(some, {})
        torch.testing.assert_close(
            looked_up.logits, expected.logits, rtol=TOLERANCE, atol=TOLERANCE
        )
        assert looked_up.features.keys() == expected.features.keys()
        for stage, feature in expected.features.items():
            found = looked_up.features[stage]
            torch.testing.assert_close(found, feature, rtol=TOLERANCE, atol=TOLERANCE)


def test_an_output_does_not_depend_on_the_batch(runs):
    work = assembled(runs, "method=st", TABLE)
    index, view = [3, 39, 3, 0, 17], [8, 0, 1, 4, 2]
    together = work.teacher.forward(batch(work, index, view), {}).logits
    alone = [
        work.teacher.forward(batch(work, [i], [v]), {}).logits
        for i, v in zip(index, view, strict=True)
    ]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.slow
def test_training_with_the_table_equals_training_with_the_teacher(runs):
    online, table = (trained(job(runs, "method=st", *more)) for more in ((), (TABLE,)))
    for one, other in zip(history(online[1]), history(table[1]), strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    assert table[0].teacher.source == "table"
    # 40 images in 9 views, 4 classes, 4 bytes
    assert table[0].teacher.table["bytes"] == 40 * 9 * 4 * 4
    assert table[0].teacher.accuracy == online[0].teacher.accuracy


def test_the_source_of_the_teachers_outputs_is_part_of_a_jobs_identity(runs):
    online, table = (job(runs, "method=st", *more) for more in ((), (TABLE,)))
    assert online.folder != table.folder
    baselines = [job(runs, "method=baseline", *more) for more in ((), (TABLE,))]
    assert baselines[0].folder == baselines[1].folder


@pytest.mark.slow
def test_jobs_share_a_table_and_other_views_need_another(runs):
    def tables():
        return {path.name for path in (runs / run_folder.TEACHER_CACHES).iterdir()}

    assembled(runs, "method=st", TABLE)
    before = tables()
    assembled(runs, "method=logits", TABLE, "seed=1")
    assert tables() == before
    assembled(runs, "method=st", TABLE, "dataset.pad=2", "dataset.padding=reflect")
    assert len(tables()) == len(before) + 1


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("at", "the method reads stage1, stage2, stage3"),
        ("sobolev", "'sobolev' differentiates the teacher"),
        ("dml", "'dml' trains the teacher"),
        ("sskd", "'sskd' passes additional views through the teacher"),
    ],
)
def test_a_method_that_needs_more_than_a_table_is_refused_in_one_line(runs, method, reason):
    with pytest.raises(UserError, match=f"teacher.source=table.*{reason}; use .*online") as error:
        validate.validate_job(job(runs, f"method={method}", TABLE))
    assert "\n" not in str(error.value)


# How it is filled


class Counting(Teacher):
    """A teacher that counts its batches and can be interrupted."""

    def __init__(self, tapped, stop_at=None):
        super().__init__(tapped)
        self.batches, self.stop_at = 0, stop_at

    def __call__(self, image):
        if self.batches == self.stop_at:
            raise KeyboardInterrupt
        self.batches += 1
        return super().__call__(image)


@pytest.fixture
def work(runs, monkeypatch) -> TrainingSetup:
    monkeypatch.setattr(teacher_cache, "inference_batch_size", lambda data: 50)
    return assembled(runs, "method=st")


def make(
    work: TrainingSetup, folder: Path, teacher: Teacher, say=lambda text: None
) -> torch.Tensor:
    shapes = {}  # no stage is tapped
    return teacher_cache.load_cached_teacher(folder, teacher, shapes, work.data, say)._table


def test_the_table_of_a_killed_process_is_completed(work, tmp_path):
    whole = make(work, tmp_path / "whole", Counting(work.teacher.network))
    with pytest.raises(KeyboardInterrupt):
        make(work, tmp_path / "parts", Counting(work.teacher.network, stop_at=3))
    with open(tmp_path / "parts/rows.f32.part", "ab") as file:
        file.write(b"half a row")
    second = Counting(work.teacher.network)
    assert torch.equal(make(work, tmp_path / "parts", second), whole)
    assert second.batches == 8 - 3  # 360 rows are 8 batches of 50, the last one padded
    assert {path.name for path in (tmp_path / "parts").iterdir()} == {"rows.f32", "table.json"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "damage", "kept"),
    [
        ("rows.f32.part", lambda content: content[:1000] + bytes(50) + content[1050:], 1),
        ("rows.f32.part", lambda content: bytes(len(content)), 0),
        ("rows.f32.part", lambda content: content[:1600], 2),
        ("rows.sha256.part", lambda content: content[:70], 1),
        ("rows.sha256.part", lambda content: b"", 0),
    ],
)
def test_only_undamaged_rows_of_a_killed_process_are_kept(work, tmp_path, name, damage, kept):
    whole = make(work, tmp_path / "whole", Counting(work.teacher.network))
    with pytest.raises(KeyboardInterrupt):
        make(work, tmp_path / "parts", Counting(work.teacher.network, stop_at=3))
    path = tmp_path / "parts" / name
    path.write_bytes(damage(path.read_bytes()))  # three batches of 800 bytes, or lines of 65
    second = Counting(work.teacher.network)
    assert torch.equal(make(work, tmp_path / "parts", second), whole)
    assert second.batches == 8 - kept


def test_rows_are_not_truncated_after_another_process_took_over(tmp_path):
    def refuse():
        raise lock.Locked("process 42 on elsewhere")

    (tmp_path / "part").write_bytes(bytes(100))
    with (
        open(tmp_path / "part", "a+b") as part,
        open(tmp_path / "hashes", "a+b") as hashes,
        pytest.raises(lock.Locked),
    ):
        teacher_cache._resume(part, hashes, 10, refuse)
    assert (tmp_path / "part").stat().st_size == 100


def flipped(content: bytes) -> bytes:
    return content[:1000] + bytes([content[1000] ^ 1]) + content[1001:]


DAMAGES = {
    "one bit": ("rows.f32", flipped),
    "zeros": ("rows.f32", lambda content: bytes(len(content))),
    "4 kB too many": ("rows.f32", lambda content: content + bytes(4096)),
    "truncated": ("rows.f32", lambda content: content[:-4]),
    "emptied": ("rows.f32", lambda content: b""),
    "its record truncated": ("table.json", lambda content: content[:20]),
    "its record emptied": ("table.json", lambda content: b""),
    "its record a list": ("table.json", lambda content: b"[1]"),
    "another number in its record": (
        "table.json",
        lambda content: content.replace(b'"views": 9', b'"views": 8'),
    ),
    "its record without a hash": ("table.json", lambda content: b'{"bytes": 5760}'),
}


@pytest.mark.parametrize(("name", "damage"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_table_is_filled_again_with_a_warning(work, tmp_path, name, damage):
    whole = make(work, tmp_path, Counting(work.teacher.network)).clone()
    path = tmp_path / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match=f"recomputing the teacher's cache in {tmp_path}"):
        again = make(work, tmp_path, Counting(work.teacher.network))
    assert torch.equal(again, whole)
    make(work, tmp_path, Counting(work.teacher.network, stop_at=0))  # complete: no batch is needed


def test_a_process_that_lost_its_lock_leaves_the_table_to_the_other(work, tmp_path):
    class TakenOver(Counting):
        def __call__(self, image):
            if self.batches == 2:
                (owner,) = (tmp_path / "lock").iterdir()
                owner.rename(owner.with_name(f"elsewhere~1~2,42,{self.batches}"))
                sizes.append((tmp_path / "rows.f32.part").stat().st_size)
            return super().__call__(image)

    def say(text):
        if text.startswith("waiting"):
            said.append(text)
            sizes.append((tmp_path / "rows.f32.part").stat().st_size)
            shutil.rmtree(tmp_path / "lock")  # the other process ends

    said, sizes = [], []
    table = make(work, tmp_path, TakenOver(work.teacher.network), say)
    assert len(table) == 360
    assert sizes == [1600, 1600]  # two batches: nothing was added after the takeover
    assert "filled by process 42 on elsewhere, which took over" in said[0]


def test_a_table_is_filled_once(work, tmp_path):
    make(work, tmp_path, Counting(work.teacher.network))
    assert len(make(work, tmp_path, Counting(work.teacher.network, stop_at=0))) == 360


def test_a_process_waits_for_a_table_that_another_fills(work, tmp_path):
    said, found = [], []
    waiting = threading.Event()

    def say(text):
        said.append(text)
        waiting.set()

    def ask():
        found.append(make(work, tmp_path, Counting(work.teacher.network), say))

    with lock.Lock(tmp_path):
        thread = threading.Thread(target=ask)
        thread.start()
        assert waiting.wait(10)
        assert not found
    thread.join(20)
    assert len(found[0]) == 360
    assert said[0].startswith("waiting for the teacher's cache, filled by process")


def test_the_size_and_the_filling_time_of_a_table_are_reported(work, tmp_path):
    said = []
    make(work, tmp_path, Counting(work.teacher.network), said.append)
    # 360 rows of 4 logits of 4 bytes are 5,760 bytes
    assert said[0] == "filling the teacher's cache: 9 views of 40 images, 5.8 kB"
    assert said[1].startswith("time left to fill the cache: ")
    assert said[-1].startswith("time taken to fill the cache: ")
