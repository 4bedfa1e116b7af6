"""Every method with a ViT as student or teacher and a ResNet: it trains or is refused."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
from helpers.jobs import FOR_ANY_STUDENT, composed, of_method, setup_of
from helpers.shipped import choices

pytest.importorskip("kd_bench.utils.torchvision").declare_operators()
pytest.importorskip("timm", reason="timm is not installed: pip install timm")

from kd_bench.interfaces import UserError  # noqa: E402  # after the skip
from kd_bench.jobs.resolve import resolve_job  # noqa: E402
from kd_bench.jobs.validate import validate_job  # noqa: E402
from kd_bench.training.epoch import EpochRunner  # noqa: E402
from kd_bench.training.setup import phases  # noqa: E402

SMALL = (
    *("dataset=synthetic", "dataset.source.train=16", "dataset.source.test=8"),
    *("dataset.source.num_classes=4", "dataset.source.size=32"),
    *("recipe=quickstart", "recipe.epochs=1", "recipe.batch_size=8", "device=cpu"),
    "tensorboard=false",
)


def vit(key: str) -> tuple[str, ...]:
    """A ViT of 4 blocks and 4x4 patches."""
    net = {"depth": 4, "embed_dim": 48, "num_heads": 3, "patch_size": 8}
    values = (f"+{key}.net.{name}={value}" for name, value in net.items())
    return f"{key}.name=vit_tiny_patch16_224", *values


SIDES = {
    "student": ("model=timm", *vit("model"), "model@teacher.model=resnet8x4"),
    "teacher": (
        *("model=resnet8", "model@teacher.model=timm", *vit("teacher.model")),
        "model@assistant=resnet8",  # not larger than the teacher
    ),
}
NAMES = {"student": ("vit_tiny_patch16_224", "resnet8x4")}
NAMES["teacher"] = ("resnet8", "vit_tiny_patch16_224")
SHAPES = {
    "student": {"stage1": ("48x4x4", "64x32x32"), "stage2": ("48x4x4", "128x16x16")},
    "teacher": {"stage1": ("16x32x32", "48x4x4"), "stage2": ("32x16x16", "48x4x4")},
}
POOLED = {"student": ("48", "256"), "teacher": ("64", "48")}


def refusals(side: str) -> dict[str, str]:
    """The refused methods with a part of the message: shapes of both networks, or stages."""
    (student, teacher), shapes = NAMES[side], SHAPES[side]

    def both(stage: str, values: tuple[str, str]) -> str:
        return f"{stage} is {values[0]} in {student} and {values[1]} in {teacher}"

    sides = tuple(shape.partition("x")[2] for shape in shapes["stage1"])
    stem = "unknown stage 'stem' of vit_tiny_patch16_224; choose from stage1,"
    regressor = "can only halve a map, double it or crop its borders, but "
    fitnets = dict.fromkeys(
        ("fitnet", "fitnet_two_stage"), regressor + both("stage2", shapes["stage2"])
    )
    lwm = "that of vit_tiny_patch16_224 is rearranged (net."
    return {
        "afd": "AFD needs equal channels, but " + both("stage1", shapes["stage1"]),
        "deit_token": f"{student} has no distillation token; choose a student that has one",
        "fcfd": "maps of equal size, or one twice as large, but " + both("stage1", sides),
        "feature_mse": "needs equal channels, but " + both("pooled", POOLED[side]),
        "fsp": stem,
        "fsp_joint": stem,
        "kdsvd": "KDSVD needs equal channels, but " + both("stage1", shapes["stage1"]),
        "lwm": lwm,
        "tfkd_self": f"the student is {student} and the teacher {teacher}",
        **(fitnets if side == "student" else {"ofd": "unknown stage 'stage1_norm' of vit_"}),
    }


@pytest.mark.slow
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", choices("method"))
def test_a_method_trains_with_a_vit_or_is_refused_with_the_reason(runs, name, side):
    chosen = [each for each in of_method(name) if each not in FOR_ANY_STUDENT.get(name, ())]
    config, _ = composed(*SMALL, *SIDES[side], *chosen)
    job = resolve_job(replace(config, runs_dir=str(runs)), {})
    refused = refusals(side)
    if name in refused:
        with pytest.raises(UserError, match=re.escape(refused[name])) as told:
            validate_job(job)
        assert "\n" not in str(told.value)
        return
    validate_job(job)
    work = setup_of(job)
    for phase in phases(work):
        row = EpochRunner(work, phase).run(1)
        assert all(math.isfinite(value) for value in row.values())
