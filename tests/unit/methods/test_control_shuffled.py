"""Shuffled targets: each image gets the teacher's output for a fixed other image of its class."""

from dataclasses import replace

import pytest
import torch
from helpers.jobs import job, setup_of, train
from helpers.logit_losses import context

from kd_bench.interfaces import Loss, UserError
from kd_bench.methods.common.method import Method
from kd_bench.methods.control_shuffled import OtherImageTarget, cycles
from kd_bench.methods.st import SoftTarget
from kd_bench.training.epoch import EpochRunner
from kd_bench.training.setup import phases
from kd_bench.training.step import Step

LABELS = torch.tensor([0, 1, 2, 0, 1, 0, 0, 1, 0, 3, 3, 0])  # one image of class 2


def partners(seed: int, labels: torch.Tensor = LABELS) -> torch.Tensor:
    torch.manual_seed(seed)
    return cycles(labels)


def test_partners_are_a_single_cycle_through_each_class():
    for seed in range(20):
        partner = partners(seed)
        assert torch.equal(LABELS[partner], LABELS)
        for label in range(4):
            (members,) = (label == LABELS).nonzero(as_tuple=True)
            seen, at = [], members[0].item()
            for _ in members:
                seen.append(at)
                at = partner[at].item()
            assert at == members[0]
            assert sorted(seen) == members.tolist()
    assert partner[2] == 2  # the only image of its class


@pytest.mark.slow
def test_partners_depend_on_the_seed_and_are_uniform():
    assert torch.equal(partners(3), partners(3))
    drawn = torch.stack([partners(seed)[0] for seed in range(600)])
    # Each of the five others of class 0 about 120 times
    assert set(drawn.tolist()) == {3, 5, 6, 8, 11}
    assert drawn.bincount()[[3, 5, 6, 8, 11]].min() > 80


def test_a_resumed_job_keeps_its_partners():
    torch.manual_seed(0)
    one = OtherImageTarget(replace(context(4), labels=LABELS), 4.0)
    other = OtherImageTarget(replace(context(4), labels=LABELS), 4.0)
    assert not torch.equal(one.partner, other.partner)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.partner, other.partner)


@pytest.fixture
def seen(tmp_path, monkeypatch):
    """A job's setup, and the pairs of batches passed to its steps: the student's, the teacher's."""
    work, steps = setup_of(job(tmp_path, "method=control_shuffled")), []
    original = Step.__call__

    def recorded(self, batch, shown=None):
        result = original(self, batch, shown)
        steps.append((batch, shown))
        return result

    monkeypatch.setattr(Step, "__call__", recorded)
    return work, steps


@pytest.mark.slow
def test_the_teacher_gets_the_partners_with_the_partners_augmentation(seen):
    work, steps = seen
    runner = EpochRunner(work, phases(work)[0])
    for epoch in (1, 2):
        runner.run(epoch)
    own = {}  # (epoch, index) -> the student's image
    for number, (batch, _) in enumerate(steps):
        epoch = number // len(work.step_sizes)
        own |= {(epoch, i.item()): x for i, x in zip(batch.index, batch.image, strict=True)}
    partner = work.method.losses["control_shuffled"].partner
    assert (partner != torch.arange(len(partner))).all()
    for number, (batch, shown) in enumerate(steps):
        epoch = number // len(work.step_sizes)
        assert torch.equal(shown.target, batch.target)
        assert torch.equal(shown.index, partner[batch.index])
        for index, image in zip(shown.index.tolist(), shown.image, strict=True):
            assert torch.equal(image, own[epoch, index])


@pytest.mark.slow
def test_the_loss_is_soft_target_with_the_teachers_outputs_for_the_partners(seen):
    work, steps = seen
    EpochRunner(work, phases(work)[0]).run(1)
    batch, shown = steps[0]
    student, teacher = work.student(batch.image), work.teacher(shown.image)
    loss = work.method.losses["control_shuffled"]
    assert torch.equal(
        loss(student, teacher, batch), SoftTarget(context(4), 4.0)(student, teacher, batch)
    )


@pytest.mark.slow
def test_with_each_image_as_its_own_partner_it_is_soft_target_bit_for_bit(tmp_path):
    plain, shuffled = (
        setup_of(job(tmp_path, f"method={name}")) for name in ("st", "control_shuffled")
    )
    partner = shuffled.method.losses["control_shuffled"].partner
    partner.copy_(torch.arange(len(partner)))
    same, now = (train(work, tmp_path).history for work in (plain, shuffled))
    assert [row["st"] for row in same] == [row["control_shuffled"] for row in now]
    assert all(map(torch.equal, *(w.student.net.state_dict().values() for w in (plain, shuffled))))


@pytest.mark.slow
def test_with_a_teacher_cache_it_has_the_same_losses(tmp_path):
    online, table = (
        setup_of(job(tmp_path, "method=control_shuffled", f"teacher.source={source}"))
        for source in ("online", "table")
    )
    histories = [train(work, tmp_path).history for work in (online, table)]
    for one, other in zip(*histories, strict=True):
        assert other["control_shuffled"] == pytest.approx(one["control_shuffled"], rel=1e-4)


@pytest.mark.slow
def test_without_weight_it_is_the_baseline_bit_for_bit(tmp_path):
    plain = setup_of(job(tmp_path, "method=baseline"))
    silent = setup_of(job(tmp_path, "method=control_shuffled", "method.weights.control_shuffled=0"))
    histories = [train(work, tmp_path).history for work in (plain, silent)]
    for before, now in zip(*histories, strict=True):
        assert before == {name: now[name] for name in before}
    assert all(map(torch.equal, *(w.student.net.state_dict().values() for w in (plain, silent))))


class Differentiates(Loss):
    needs_input_gradients = True

    def forward(self, student, teacher, batch):
        return student.logits.sum() * 0


def test_losses_that_need_different_teacher_images_are_refused():
    own = replace(context(4), labels=LABELS)
    one, two, three = OtherImageTarget(own, 4.0), OtherImageTarget(own, 4.0), Differentiates(own)
    with pytest.raises(UserError, match=r"^a and b each show the teacher other images; use one$"):
        Method({"a": one, "b": two}, {"ce": 1, "a": 1, "b": 1})
    with pytest.raises(UserError, match=r"^b differentiates .* but a shows the teacher other"):
        Method({"a": one, "b": three}, {"ce": 1, "a": 1, "b": 1})
