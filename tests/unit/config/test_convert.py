"""Conversion between plain values and the schema's dataclasses."""

import json

import pytest
from helpers.jobs import composed

from kd_bench.config.convert import to_dataclass, to_plain
from kd_bench.config.schema import Config, Precision, RecipeConfig, Schedule, TeacherConfig
from kd_bench.utils.errors import UserError


@pytest.mark.slow
def test_a_composed_job_is_unchanged_after_json():
    config, _ = composed("method=rkd", "teacher.precision=bf16", "recipe.epochs=30")
    assert to_dataclass(Config, json.loads(json.dumps(to_plain(config)))) == config


def test_sections_enums_and_missing_values_are_converted():
    teacher = to_dataclass(
        TeacherConfig, {"recipe": {"name": "r", "schedule": "cosine"}, "precision": "bf16"}
    )
    assert teacher.recipe.schedule is Schedule.cosine
    assert teacher.precision is Precision.bf16
    assert teacher.seed == 0  # the default
    assert to_dataclass(TeacherConfig, {"precision": None}).precision is None


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (RecipeConfig, {"epoch": 3}, r"unknown key 'epoch'; choose from name, epochs"),
        (Config, {"recipe": {"epoch": 3}}, r"unknown key 'recipe\.epoch'; choose from name"),
        (Config, {"speed": "fast"}, r"unknown value 'fast' of speed; choose from reference, repro"),
    ],
)
def test_unknown_keys_and_values_are_refused_with_the_valid_ones(kind, values, message):
    with pytest.raises(UserError, match=message):
        to_dataclass(kind, values)
