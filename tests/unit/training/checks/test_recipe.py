"""Recipes that cannot train are refused, and all shipped recipes are accepted."""

import math

import pytest
from helpers import shipped

from kd_bench.config.schema import (
    ErasingConfig,
    LabelLossName,
    OptimizerName,
    RecipeConfig,
    Schedule,
)
from kd_bench.training.checks.recipe import check_recipe
from kd_bench.training.optimization.schedule import learning_rates
from kd_bench.utils.errors import UserError


def recipe(**changes):
    values = {"name": "r", "epochs": 4, "batch_size": 2, "lr": 0.1, **changes}
    return RecipeConfig(**values)


@pytest.mark.parametrize("name", shipped.choices("recipe"))
def test_every_shipped_recipe_can_train(name):
    checked = shipped.load("recipe", name)
    check_recipe(checked)
    assert checked.name == name
    assert (learning_rates(checked, 3) > 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be 1 or more, got 0"),
        ({"batch_size": 0}, "batch_size must be 1 or more"),
        ({"accumulate": 0}, "accumulate must be 1 or more, got 0"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"lr": math.inf}, "lr must be above 0 and finite, got inf"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\)"),
        ({"momentum": 0.0, "nesterov": True}, "nesterov needs a momentum"),
        (
            {"optimizer": OptimizerName.adamw, "nesterov": True},
            "nesterov needs optimizer=sgd, got adamw",
        ),
        ({"weight_decay": -1.0}, "weight_decay must be 0 or more"),
        ({"ema": 1.0}, r"ema must be in \[0, 1\), got 1.0"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), got 1.0"),
        ({"mixup": -0.2}, "mixup is the parameter of a beta distribution.* got -0.2"),
        ({"cutmix": math.inf}, "cutmix is the parameter .* got inf"),
        ({"target_threshold": 0.2}, "target_threshold is for label_loss=bce, and this is ce"),
        (
            {"label_loss": LabelLossName.bce, "target_threshold": 1.0},
            "target_threshold must be 0 or more and below 1, got 1.0",
        ),
        ({"repeated_augmentation": 0}, "repeated_augmentation must be 1 or more, got 0"),
        ({"erasing": ErasingConfig(1.5)}, "erasing.probability must be from 0 to 1, got 1.5"),
        (
            {"erasing": ErasingConfig(area=[0.3, 0.1])},
            r"erasing.area must be the least and the largest, .* below 1, got \[0.3, 0.1\]",
        ),
        ({"erasing": ErasingConfig(ratio=[0.0, 3.0])}, r"erasing.ratio must .* finite, got \[0.0"),
        ({"milestones": [100, 150]}, "milestones are fractions"),
        ({"schedule": Schedule.onecycle}, "onecycle needs a warmup"),
        ({"linear_warmup": 5}, "linear_warmup is a fraction of the epochs.* got 5"),
        (
            {"schedule": Schedule.onecycle, "warmup": 0.3, "linear_warmup": 0.1},
            r"onecycle already has a warm-up \(warmup\); leave out linear_warmup",
        ),
        ({"schedule": Schedule.cosine, "min_lr": 0.2}, "min_lr must be between 0 and lr=0.1"),
        ({"min_lr": 0.01}, "min_lr needs schedule=cosine, got step"),
    ],
    ids=str,
)
def test_a_recipe_that_cannot_train_is_refused_with_the_field(change, message):
    with pytest.raises(UserError, match=message):
        check_recipe(recipe(**change))
