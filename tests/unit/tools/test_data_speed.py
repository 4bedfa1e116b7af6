"""tools/data_speed.py on few images: both sides do the same work, and memory is measured."""

import os

import data_speed
import pytest
import torch

from kd_bench.data.image_folder import ImageFolder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return data_speed.write_photos(tmp_path_factory.mktemp("photos"), 10)


@pytest.mark.slow
def test_both_sides_make_batches_of_the_same_shape(root):
    ours = list(data_speed.stream(data_speed.open_stream(ImageFolder(str(root), None), 0), 10))
    theirs = list(data_speed.torchvision_batches(root, 0))
    shapes = [[(each.shape, each.dtype) for each in batches] for batches in (ours, theirs)]
    assert shapes[0] == shapes[1] == [((10, 3, 224, 224), torch.float32)]


def test_images_are_repeated_until_there_are_enough(root):
    data = data_speed.open_stream(ImageFolder(str(root), None), 0)
    assert sum(map(len, data_speed.stream(data, 23))) == 23


def test_rates_are_compared_with_those_of_the_same_round(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(data_speed.time, "perf_counter", lambda: clock[0])

    def takes(seconds):
        left = list(seconds)

        def run():
            clock[0] += left.pop(0)

        return run

    runs = {"plain": takes([2, 4, 2]), "ours": takes([1, 1, 1])}
    data_speed.show_rates("decoded", runs, 100, 3, "plain")
    assert capsys.readouterr().out.splitlines() == [
        "decoded: plain 50 images/s, 1.00 x plain",
        "decoded: ours 100 images/s, 2.00 x plain",
    ]


@pytest.mark.slow
def test_memory_is_measured_for_one_process():
    before = data_speed.private(os.getpid())
    held = torch.ones(2**26)  # 256 MB
    assert data_speed.private(os.getpid()) - before > 0.9 * 4 * len(held)
    assert data_speed.resident(os.getpid()) >= data_speed.private(os.getpid())
