"""FSP in its two phases; the flow matrix is tested in test_all_methods.py."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from helpers.outputs import batch_of, context_of, output_of, rand
from helpers.shipped import load

from kd_bench.jobs import instantiate

STAGES = {"stem": (2, 4, 4), "stage1": (2, 4, 4), "stage2": (4, 2, 2), "stage3": (4, 1, 1)}


def test_both_variants_use_the_same_losses():
    assert load("method", "fsp").losses == load("method", "fsp_joint").losses


def test_the_init_phase_has_only_the_flow_and_the_main_phase_only_cross_entropy():
    config = load("method", "fsp")
    assert config.weights == {"ce": 1.0}
    assert set(config.init.weights) == {"fsp"}


def test_the_init_phase_sums_over_pairs_of_stages():
    student, teacher = (
        {stage: rand(2, *size, seed=seed + i) for i, (stage, size) in enumerate(STAGES.items())}
        for seed in (0, 10)
    )

    def flow(maps, first, second):
        a = F.adaptive_avg_pool2d(maps[first], maps[second].shape[2:])
        return torch.einsum("bchw,bdhw->bcd", a, maps[second]) / a[0, 0].numel()

    expected = 0.0
    for pair in (("stem", "stage1"), ("stage1", "stage2"), ("stage2", "stage3")):
        expected += (flow(student, *pair) - flow(teacher, *pair)).square().mean()

    context = context_of(STAGES, STAGES)
    method = instantiate.build_method(load("method", "fsp"), context)
    student_out, teacher_out = output_of(torch.zeros(2, 2), **student), output_of(**teacher)
    terms = method(student_out, teacher_out, batch_of(context, 2), phase="init")
    total = method.total(terms, torch.tensor(1.0), phase="init")
    torch.testing.assert_close(total.double(), expected)
