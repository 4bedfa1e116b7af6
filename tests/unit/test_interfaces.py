"""The names of a loss's capabilities."""

import pytest

from kd_bench.interfaces import Loss, UserError


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
def test_a_name_of_version_0_1_is_refused_with_the_new_one(old, new):
    with pytest.raises(UserError, match=f"Own.{old} is now called {new}"):
        type("Own", (Loss,), {old: True})
    assert hasattr(type("Own", (Loss,), {new: True}), new)
