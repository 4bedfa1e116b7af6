"""The names of a loss's capabilities, and losses computed per image."""

import pytest
import torch

from kd_bench.interfaces import Loss, PerImageLoss, UserError


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("taps", "stages"),
        ("more_views", "extra_views"),
        ("needs_graph", "needs_input_gradients"),
        ("capturable", "cuda_graph_safe"),
        ("same_model", "teacher_is_same_model"),
        ("begin", "on_epoch_start"),
    ],
)
def test_a_name_from_version_0_1_is_an_error_with_the_new_name(old, new):
    with pytest.raises(UserError, match=f"Own.{old} is now called {new}"):
        type("Own", (Loss,), {old: True})
    assert hasattr(type("Own", (Loss,), {new: True}), new)


def test_a_loss_per_image_is_averaged_over_the_images():
    class Own(PerImageLoss):
        def per_image(self, student, teacher, batch):
            return student

    numbers = torch.tensor([1.0, 2.0, 6.0])
    assert Own(None)(numbers, None, None).item() == 3.0
    terms = Own(None)({"near": numbers, "far": 2 * numbers}, None, None)
    assert {name: term.item() for name, term in terms.items()} == {"near": 3.0, "far": 6.0}


def test_a_loss_per_image_can_be_weighted():
    class Own(PerImageLoss):
        def per_image(self, student, teacher, batch):
            return student

    numbers, weight = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([3.0, 0.0, 1.0])
    assert Own(None).weighted(numbers, None, None, weight).item() == 3.0
    terms = Own(None).weighted({"near": numbers, "far": 2 * numbers}, None, None, weight)
    assert {name: term.item() for name, term in terms.items()} == {"near": 3.0, "far": 6.0}


@pytest.mark.parametrize(
    "declared",
    [
        {"stages": ("pooled",)},
        {"needs_networks": True},
        {"needs_input_gradients": True},
        {"needs_teacher": False},
        {"teacher_learns": True},
        {"extra_views": lambda self, image: {}},
    ],
    ids=lambda declared: next(iter(declared)),
)
def test_a_loss_with_other_inputs_than_logits_is_recognized(declared):
    assert Loss(None).compares_logits_alone
    assert not type("Own", (Loss,), declared)(None).compares_logits_alone
