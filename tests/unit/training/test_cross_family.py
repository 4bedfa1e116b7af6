"""Every method with a student of another family: it trains, or is refused with the shapes."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
from helpers.jobs import FOR_ANY_STUDENT, configured, of_method, setup_of
from helpers.shipped import choices

from kd_bench.interfaces import UserError
from kd_bench.jobs.resolve import resolve_job
from kd_bench.jobs.validate import validate_job
from kd_bench.training.epoch import EpochRunner
from kd_bench.training.setup import phases

CROSS = (
    "pair=resnet32x4-shufflenet_v2",
    "teacher.model.net.depth=14",  # equal shapes, but faster
    "teacher.recipe.epochs=1",
    "dataset=synthetic",
    "dataset.source.train=8",
    "dataset.source.test=8",
    "dataset.source.num_classes=4",
    "dataset.source.size=16",
    "recipe=quickstart",
    "recipe.epochs=1",
    "recipe.batch_size=8",
    "device=cpu",
    "tensorboard=false",
)
CHANNELS = r"needs equal channels, but {} is {} in shufflenet_v2 and {} in resnet32x4"
AVERAGE = "shufflenet_v2 has 464 channels at stage3 and 1024 at pooled"
REFUSED = {
    "afd": CHANNELS.format("stage1", "116x8x8", "64x16x16"),
    "cat_kd": f"needs the map whose average is classified, but {AVERAGE}",
    "feature_mse": CHANNELS.format("pooled", "1024", "256"),
    "deit_token": "shufflenet_v2 has no distillation token; choose a student that has one",
    "fsp": CHANNELS.format("stem", "24x16x16", "32x16x16"),
    "fsp_joint": CHANNELS.format("stem", "24x16x16", "32x16x16"),
    "kdsvd": CHANNELS.format("stage1", "116x8x8", "64x16x16"),
    "sdd": f"needs the map whose average is classified, but {AVERAGE}",
    "tfkd_self": "the student is shufflenet_v2 and the teacher resnet32x4",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", choices("method"))
def test_a_method_trains_across_families_or_is_refused_with_the_reason(runs, name):
    chosen = [each for each in of_method(name) if each not in FOR_ANY_STUDENT.get(name, ())]
    config = configured(*CROSS, *chosen)
    job = resolve_job(replace(config, runs_dir=str(runs)), {})
    if name in REFUSED:
        with pytest.raises(UserError, match=re.escape(REFUSED[name])):
            validate_job(job)
        return
    validate_job(job)
    work = setup_of(job)
    for phase in phases(work):
        row = EpochRunner(work, phase).run(1)
        assert all(math.isfinite(value) for value in row.values())
