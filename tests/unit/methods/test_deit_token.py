"""DeiT's distillation token: values by hand, a ViT from timm, and other students."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from helpers.jobs import IMAGES, composed, job, setup_of
from helpers.outputs import batch_of, context_of, output_of
from torch import Tensor
from torch.nn import functional as F

from kd_bench.interfaces import UserError
from kd_bench.jobs.resolve import resolve_job
from kd_bench.jobs.validate import validate_job
from kd_bench.methods.common.label_loss import LabelLoss
from kd_bench.methods.deit_token import DistillationToken
from kd_bench.training.epoch import EpochRunner
from kd_bench.training.setup import phases

HEADS = {"class_head": (4,), "token_head": (4,)}
CONTEXT = context_of(HEADS, {})  # labels 0, 1, 2, 3, 0, ...
LN2 = math.log(2)
P = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()  # -log2 is 1, 2, 3, 3


def value(smoothing: float = 0.0, target: Tensor | None = None) -> dict[str, float]:
    """The terms for two images: the class head predicts P, the token head P reversed."""
    loss = DistillationToken(replace(CONTEXT, label_loss=LabelLoss(smoothing=smoothing)))
    student = output_of(class_head=P.expand(2, 4), token_head=P.flip(0).expand(2, 4))
    teacher = output_of(torch.tensor([[0.0, 0.0, 0.0, 9.0], [0.0, 0.0, 5.0, 0.0]]))
    batch = batch_of(CONTEXT, 2)
    batch.target = batch.target if target is None else target
    return {name: term.item() for name, term in loss(student, teacher, batch).items()}


def test_each_head_has_its_own_labels():
    # The class head has 1 and 2 bits for labels 0 and 1; the token head 1 and 2 for the teacher's
    # predictions 3 and 2.
    assert value() == pytest.approx({"label": 1.5 * LN2, "teacher": 1.5 * LN2})


def test_labels_are_smoothed_and_mixed_but_the_teachers_predictions_are_not():
    # The mean over the classes is 9 / 4 bits
    smoothed = {"label": (0.8 * 1.5 + 0.2 * 2.25) * LN2, "teacher": 1.5 * LN2}
    assert value(smoothing=0.2) == pytest.approx(smoothed)
    shares = torch.tensor([[0.5, 0.0, 0.5, 0.0]] * 2)
    assert value(target=shares) == pytest.approx({"label": 2 * LN2, "teacher": 1.5 * LN2})


def test_a_student_without_the_token_is_refused_with_one_that_has_it(tmp_path):
    with pytest.raises(UserError, match=r"resnet8_half has no distillation token; .*distilled"):
        validate_job(job(tmp_path, "method=deit_token"))


# --- a ViT from timm --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """The setup of a small distilled ViT with a ResNet as its teacher."""
    pytest.importorskip("kd_bench.utils.torchvision").declare_operators()
    pytest.importorskip("timm", reason="timm is not installed: pip install timm")
    choices = (
        *(*IMAGES, "dataset.source.size=32", "method=deit_token", "device=cpu"),
        *("model=timm", "model.name=deit_tiny_distilled_patch16_224"),
        *("+model.net.depth=4", "+model.net.embed_dim=48"),
        *(
            "model@teacher.model=resnet8",
            "recipe=quickstart",
            "recipe.epochs=1",
            "recipe.batch_size=20",
        ),
        *("recipe.label_smoothing=0.1", "recipe.mixup=0.8", "recipe.cutmix=1.0"),
        "tensorboard=false",
    )
    runs = tmp_path_factory.mktemp("runs")
    the_job = resolve_job(replace(composed(*choices)[0], runs_dir=str(runs)), {})
    validate_job(the_job)
    return setup_of(the_job)


@pytest.mark.slow
def test_logits_are_the_mean_of_both_heads_in_training_and_at_inference(work):
    image = work.data.eval_batch(work.data.test, 0, 8)
    for mode in (True, False):
        with torch.no_grad():
            out = work.student.train(mode)(image)
        heads = [out.features[stage] for stage in DistillationToken.student_stages]
        assert not torch.equal(*heads)
        torch.testing.assert_close(out.logits, sum(heads) / 2)


def test_each_head_learns_from_its_own_term(work):
    image = work.data.eval_batch(work.data.test, 0, 8)
    out = work.student(image)
    net = work.student.net.net
    target = torch.arange(8) % 4
    for head, stage in ((net.head, "class_head"), (net.head_dist, "token_head")):
        loss = F.cross_entropy(out.features[stage], target)
        grads = [
            torch.autograd.grad(loss, each.weight, retain_graph=True, allow_unused=True)[0]
            for each in (net.head, net.head_dist)
        ]
        assert [grad is not None for grad in grads] == [head is net.head, head is net.head_dist]


def test_it_trains_on_mixed_images_with_smoothed_labels(work):
    row = EpochRunner(work, phases(work)[0]).run(1)
    assert {"ce", "deit_token/label", "deit_token/teacher", "total"} <= set(row)
    assert all(math.isfinite(term) for term in row.values())
    both = row["deit_token/label"] + row["deit_token/teacher"]
    assert row["total"] == pytest.approx(both / 2, rel=1e-5)
