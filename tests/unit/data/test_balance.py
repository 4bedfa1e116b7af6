"""Class imbalance: the ratio from which it is reported."""

import torch

from kd_bench.data.balance import imbalance


def labels(*counts):
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def test_classes_of_similar_size_are_not_reported():
    assert imbalance(labels(10, 20, 15), 3) == ""


def test_the_largest_and_the_smallest_class_are_reported():
    assert imbalance(labels(10, 1500, 20), 3) == (
        "classes are imbalanced: class 1 has 1,500 training images, class 0 has 10, 150.0 times"
        " fewer; accuracy counts images, not classes"
    )
