"""Checks that a recipe's values are in range, and that each has an effect."""

from __future__ import annotations

import math

from kd_bench.config.schema import (
    ErasingConfig,
    LabelLossName,
    OptimizerName,
    RecipeConfig,
    Schedule,
)
from kd_bench.utils.errors import require


def check_recipe(recipe: RecipeConfig) -> None:
    """Check that a recipe's values are in range.

    Raises:
        UserError: names the value and its range.
    """
    name = f"recipe '{recipe.name}'"
    require(recipe.epochs >= 1, f"{name}: epochs must be 1 or more, got {recipe.epochs}")
    require(
        recipe.batch_size >= 1, f"{name}: batch_size must be 1 or more, got {recipe.batch_size}"
    )
    require(
        recipe.accumulate >= 1, f"{name}: accumulate must be 1 or more, got {recipe.accumulate}"
    )
    for value in ("lr", "gamma"):
        number = getattr(recipe, value)
        require(0 < number < math.inf, f"{name}: {value} must be above 0 and finite, got {number}")
    require(0 <= recipe.momentum < 1, f"{name}: momentum must be in [0, 1), got {recipe.momentum}")
    require(
        not recipe.nesterov or recipe.momentum > 0, f"{name}: nesterov needs a momentum above 0"
    )
    require(
        not recipe.nesterov or recipe.optimizer is OptimizerName.sgd,
        f"{name}: nesterov needs optimizer=sgd, got {recipe.optimizer.value}",
    )
    require(
        recipe.weight_decay >= 0,
        f"{name}: weight_decay must be 0 or more, got {recipe.weight_decay}",
    )
    require(
        0 <= recipe.label_smoothing < 1,
        f"{name}: label_smoothing must be in [0, 1), got {recipe.label_smoothing}",
    )
    threshold = recipe.target_threshold
    require(
        threshold is None or recipe.label_loss is LabelLossName.bce,
        f"{name}: target_threshold is for label_loss=bce, and this is {recipe.label_loss.value}",
    )
    require(
        threshold is None or 0 <= threshold < 1,
        f"{name}: target_threshold must be 0 or more and below 1, got {threshold}",
    )
    for value in ("mixup", "cutmix"):
        number = getattr(recipe, value)
        require(
            0 <= number < math.inf,
            f"{name}: {value} is the parameter of a beta distribution, above 0 and finite, or 0 for"
            f" none, got {number}",
        )
    _check_erasing(recipe.erasing, f"{name}: erasing")
    require(
        recipe.repeated_augmentation >= 1,
        f"{name}: repeated_augmentation must be 1 or more, got {recipe.repeated_augmentation}",
    )
    require(0 <= recipe.ema < 1, f"{name}: ema must be in [0, 1), got {recipe.ema}")
    require(
        all(0 < fraction < 1 for fraction in recipe.milestones),
        f"{name}: milestones are fractions of the epochs, above 0 and below 1,"
        f" got {list(recipe.milestones)}",
    )
    require(
        0 < recipe.warmup < 1 or recipe.schedule is not Schedule.onecycle,
        f"{name}: onecycle needs a warmup above 0 and below 1, got {recipe.warmup}",
    )
    require(
        0 <= recipe.linear_warmup < 1,
        f"{name}: linear_warmup is a fraction of the epochs, 0 or more and below 1,"
        f" got {recipe.linear_warmup}",
    )
    require(
        not recipe.linear_warmup or recipe.schedule is not Schedule.onecycle,
        f"{name}: onecycle already has a warm-up (warmup); leave out linear_warmup",
    )
    require(
        0 <= recipe.min_lr <= recipe.lr,
        f"{name}: min_lr must be between 0 and lr={recipe.lr}, got {recipe.min_lr}",
    )
    require(
        not recipe.min_lr or recipe.schedule is Schedule.cosine,
        f"{name}: min_lr needs schedule=cosine, got {recipe.schedule.value}",
    )


def _check_erasing(erasing: ErasingConfig, name: str) -> None:
    require(
        0 <= erasing.probability <= 1,
        f"{name}.probability must be from 0 to 1, got {erasing.probability}",
    )
    for key, values, most in (("area", erasing.area, 1.0), ("ratio", erasing.ratio, math.inf)):
        require(
            len(values) == 2 and 0 < values[0] <= values[1] < most,
            f"{name}.{key} must be the least and the largest, both above 0 and"
            f" {'below 1' if most == 1 else 'finite'}, got {list(values)}",
        )
