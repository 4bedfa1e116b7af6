"""Streamed images: the same bits as images in memory, with any number of workers; errors."""

import multiprocessing
import os
import re
import signal

import pytest
import torch
from helpers.image_files import write_folder, write_tables

from kd_bench.data import dataset as dataset_module
from kd_bench.data.dataset import Dataset
from kd_bench.data.digits import Digits
from kd_bench.data.files.csv_files import CsvFiles
from kd_bench.data.files.decode import versions
from kd_bench.data.image_folder import ImageFolder
from kd_bench.data.streaming import streamed as streamed_module
from kd_bench.interfaces import UserError
from kd_bench.sweep.retry import RetryPolicy
from kd_bench.utils.errors import ProcessLost, error_text, failure_reason

KILLED = "DataLoader worker (pid 7) is killed by signal: Killed. "


@pytest.fixture
def root(tmp_path):
    write_folder(tmp_path)
    write_tables(tmp_path)
    return tmp_path


def load(source, **settings):
    usual = {"pad": 2, "padding": "reflect", "flip": True, "workers": 0}
    return Dataset(source, **{**usual, **settings}).load()


def folder(root, size=None):
    return ImageFolder(str(root), size)


def refused(message):
    return pytest.raises(UserError, match=re.escape(message))


def epoch_of(data, order, sizes, epoch=3, seed=5):
    """The normalised images of each step of an epoch, as the training loop gets them."""
    feed = data.feed(seed, sizes)
    feed.start(order, epoch)
    for part in order[: sum(sizes)].split(sizes):
        feed.advance()
        yield feed.images(part, data.sample_views(part, epoch, seed)).clone()


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["folder", "resized folder", "csv"])
def test_streamed_batches_have_the_same_bits_as_those_in_memory(root, kind, workers):
    def source():
        if kind == "csv":
            return CsvFiles(str(root), None, "train.csv", "test.csv")
        return folder(root, None if kind == "folder" else 5)

    held, streamed = (
        load(source(), streamed=is_streamed, workers=workers, validation=3)
        for is_streamed in (False, True)
    )
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    sizes = [4, 4, 1]
    pairs = zip(epoch_of(held, order, sizes), epoch_of(streamed, order, sizes), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    for name in ("train", "test", "validation"):
        mine, theirs = getattr(streamed, name), getattr(held, name)
        assert torch.equal(mine.target, theirs.target)
        images = [
            torch.cat(list(data.eval_batches(split, 4)))
            for data, split in ((streamed, mine), (held, theirs))
        ]
        assert torch.equal(*images)
        assert torch.equal(streamed.eval_batch(mine, 1, 3), images[0][1:3])
    assert torch.equal(held.mean, streamed.mean)  # both are measured
    assert torch.equal(held.std, streamed.std)
    assert streamed.image_size == held.image_size


def test_streaming_does_not_use_the_global_generator(root):
    data = load(folder(root), streamed=True)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    list(epoch_of(data, torch.arange(12), [6, 6]))
    list(data.eval_batches(data.test, 4))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.slow
def test_no_worker_is_left_after_the_last_step_of_an_epoch(root):
    data = load(folder(root), streamed=True, workers=2, mean=[0.5] * 3, std=[0.2] * 3)
    feed = data.feed(5, [6, 6])
    feed.start(torch.arange(12), 1)
    feed.advance()
    assert len(multiprocessing.active_children()) == 2
    feed.advance()
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_a_killed_worker_is_a_lost_process_and_is_retried(root):
    data = load(folder(root), streamed=True, workers=1, mean=[0.5] * 3, std=[0.2] * 3)
    feed = data.feed(5, [1] * 12)
    feed.start(torch.arange(12), 1)
    feed.advance()
    [worker] = multiprocessing.active_children()

    def killed():
        os.kill(worker.pid, signal.SIGKILL)
        for _ in range(11):
            feed.advance()

    with pytest.raises((ProcessLost, RuntimeError)) as lost:  # torch's signal handler may be first
        killed()
    reason = failure_reason(lost.value)
    expected = "a process that decodes images was killed, perhaps for lack of memory; use fewer"
    assert reason.startswith(f"ProcessLost: {expected} dataset.workers")
    assert error_text(lost.value) == reason.replace("ProcessLost", "kd-bench", 1)
    assert RetryPolicy(retries=1).should_retry(reason, lost=False, tried=0)


@pytest.mark.parametrize("error", [EOFError(), ConnectionResetError(), RuntimeError(KILLED)])
def test_an_error_that_a_killed_worker_causes_is_a_lost_process(root, monkeypatch, error):
    def raising(*_args, **_kwargs):
        raise error
        yield

    data = load(folder(root), streamed=True, mean=[0.5] * 3, std=[0.2] * 3)
    monkeypatch.setattr(streamed_module, "DataLoader", raising)
    monkeypatch.setattr(streamed_module, "SIGNAL_SECONDS", 0)
    with pytest.raises(ProcessLost, match=r"use fewer dataset\.workers"):
        list(data.plain_images(data.test, 4))


def test_dropped_steps_are_not_decoded(root):
    data = load(folder(root), streamed=True)
    order = torch.arange(12).flip(0)
    assert [len(image) for image in epoch_of(data, order, [5, 5])] == [5, 5]


def test_a_new_epoch_may_start_before_the_last_one_ends(root):
    data = load(folder(root), streamed=True)
    feed = data.feed(5, [6, 6])
    for order in (torch.arange(12), torch.arange(12).flip(0)):
        feed.start(order, 1)
        feed.advance()
        first = order[:6]
        shown = feed.images(first, data.sample_views(first, 1, 5))
    [expected, _] = epoch_of(data, torch.arange(12).flip(0), [6, 6], epoch=1)
    assert torch.equal(shown, expected)


def test_the_fingerprint_of_a_copy_is_equal_and_changes_with_labels(root, tmp_path):
    whole = load(folder(root), streamed=True).fingerprint
    assert re.fullmatch("[0-9a-f]{16}", whole)
    copy = write_folder(tmp_path / "copy")
    assert load(folder(copy), streamed=True).fingerprint == whole
    (copy / "train/ant/000.jpg").rename(copy / "train/bee/000.jpg")
    assert load(folder(copy), streamed=True).fingerprint != whole


def test_the_record_has_the_versions_of_the_decoders_of_streamed_images(root):
    assert load(folder(root), streamed=True).versions == versions()
    assert load(folder(root)).versions == {}


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_damaged_image_is_reported_in_one_line(root, workers):
    data = load(folder(root), streamed=True, workers=workers, mean=[0.5] * 3, std=[0.2] * 3)
    (root / "test/bee/003.jpg").write_bytes(b"no image")
    with refused(f"{root}/test/bee/003.jpg is not an image that PIL can read") as caught:
        list(data.eval_batches(data.test, 4))
    assert "\n" not in str(caught.value)


def test_images_of_two_sizes_are_refused_with_a_file_of_each(tmp_path):
    write_folder(tmp_path, sizes=((8, 8), (8, 9)))
    with refused("train/ant/000.jpg has 8x8 pixels, ") as caught:
        load(folder(tmp_path), streamed=True)
    assert "train/bee/001.jpg has 9x8; set dataset.source.size" in str(caught.value)


def test_a_source_without_files_cannot_be_streamed():
    with refused("Digits keeps its images in memory; leave out dataset.streamed"):
        load(Digits(train=500), streamed=True)


def test_the_processes_of_a_job_share_the_cores_between_their_workers(root, monkeypatch):
    monkeypatch.setattr(dataset_module, "core_count", lambda: 12)
    settings = {"pad": 2, "padding": "reflect", "flip": True, "streamed": True, "validation": 0}
    images = Dataset(folder(root), **settings, mean=[0.5] * 3, std=[0.2] * 3)
    assert [images.load(processes=number).workers for number in (1, 4, 24)] == [12, 3, 1]


def test_a_negative_number_of_workers_is_refused(root):
    with refused("dataset.workers must be 0 or more, got -1"):
        load(folder(root), streamed=True, workers=-1)


def test_images_that_do_not_fit_into_the_memory_are_refused_before_decoding(root, monkeypatch):
    (root / "test/ant/000.jpg").write_bytes(b"no image")
    # 18 decoded images of 8x8 pixels, and padded copies of 12x12 of the 12 training images
    needed = 3 * (18 * 64 + 12 * 144)
    monkeypatch.setattr(dataset_module, "available_memory", lambda: needed - 1)
    with refused(
        "18 images of 8x8 pixels need 8.6 kB of memory while loading, but only 8.6 kB are free;"
        " add dataset.streamed=true"
    ):
        load(folder(root))
    monkeypatch.setattr(dataset_module, "available_memory", lambda: needed)
    with refused("is not an image"):
        load(folder(root))


def test_a_source_that_cannot_be_streamed_is_refused_without_advising_it(monkeypatch):
    monkeypatch.setattr(dataset_module, "available_memory", lambda: 1000)
    with refused("1,797 images of 8x8 pixels need") as caught:
        load(Digits(train=500))
    assert "streamed" not in str(caught.value)
