"""RRD: relations to the queue by hand and in a loop, and the queue itself."""

from __future__ import annotations

import io
import math

import pytest
import torch
from helpers.maps import without_adapter
from helpers.outputs import batch_of, context_of, output_of, rand
from torch import Tensor

from kd_bench.interfaces import LossContext, UserError
from kd_bench.methods.rrd import Queue, RelationalRepresentation

CONTEXT = context_of({"pooled": (3,)}, {"pooled": (5,)})  # twelve images
BATCH = batch_of(CONTEXT, 1)  # not read by the loss


def make(context: LossContext = CONTEXT, **changed) -> RelationalRepresentation:
    torch.manual_seed(0)
    values = {"entries": 8, "student_temperature": 0.2, "teacher_temperature": 0.5, "channels": 4}
    return RelationalRepresentation(context, **values | changed)


def per_image(loss: RelationalRepresentation, student: Tensor, teacher: Tensor) -> Tensor:
    return loss.per_image(output_of(pooled=student), output_of(pooled=teacher), BATCH)


# --- the queue --------------------------------------------------------------------------------


def numbers(*values: float) -> Tensor:
    return torch.tensor(values)[:, None]


def test_the_oldest_entries_are_replaced_in_turn():
    queue = Queue(5, 1)
    for values in ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), (7.0, 8.0, 9.0)):
        queue.push(numbers(*values))
    assert queue.entries.flatten().tolist() == [6.0, 7.0, 8.0, 9.0, 5.0]
    assert queue.oldest.item() == 4


def test_it_is_initialized_with_random_directions():
    torch.manual_seed(0)
    entries = Queue(50, 8).entries
    torch.testing.assert_close(entries.norm(dim=1), torch.ones(50))
    assert entries.mean().abs() < 0.1


def test_it_has_no_more_entries_than_there_are_images():
    assert len(make(entries=16384).queue.entries) == 12
    assert len(make(entries=7).queue.entries) == 7


def test_a_batch_that_does_not_fit_is_refused():
    message = "the queue must hold a batch of 3 images, but has 2 entries"
    with pytest.raises(UserError, match=message):
        per_image(make(entries=2), torch.ones(3, 3), torch.ones(3, 5))


def test_it_resumes_from_a_checkpoint_bit_for_bit():
    loss, file = make(), io.BytesIO()
    steps = [(rand(3, 3, seed=i).float(), rand(3, 5, seed=50 + i).float()) for i in range(6)]
    for step in steps[:3]:
        per_image(loss, *step)
    torch.save(loss.state_dict(), file)
    expected = [per_image(loss, *step) for step in steps[3:]]
    file.seek(0)
    other = make()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert all(map(torch.equal, [per_image(other, *step) for step in steps[3:]], expected))


# --- the loss ---------------------------------------------------------------------------------


def test_an_image_by_hand():
    # Two entries: the batch's image (1, 0), and an older one (0, 1). The teacher's cosines (1, 0)
    # over T = 1 / ln 3: (3/4, 1/4). The student's (0, 1) over 1 / ln 9: (1/10, 9/10)
    loss = without_adapter(without_adapter(make(entries=2, channels=2), "student"), "teacher")
    loss.temperatures = 1 / math.log(9), 1 / math.log(3)
    loss.queue.entries.copy_(torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    value = per_image(loss, torch.tensor([[0.0, 7.0]]), torch.tensor([[3.0, 0.0]]))
    assert value.item() == pytest.approx(-3 / 4 * math.log(1 / 10) - 1 / 4 * math.log(9 / 10))


def test_two_steps_match_a_slow_loop():
    loss = make().double()
    queue = [row.clone() for row in loss.queue.entries]
    for step in range(4):
        student, teacher = rand(3, 3, seed=step), rand(3, 5, seed=50 + step)
        s, t = (
            torch.nn.functional.normalize(x) for x in (loss.student(student), loss.teacher(teacher))
        )
        for i, row in enumerate(t):
            queue[(3 * step + i) % 8] = row
        expected = []
        for a, b in zip(s, t, strict=True):
            p = [math.exp(float(b @ row) / 0.5) for row in queue]
            q = [math.exp(float(a.detach() @ row) / 0.2) for row in queue]
            pairs = zip(p, q, strict=True)
            expected.append(-sum(x / sum(p) * math.log(y / sum(q)) for x, y in pairs))
        assert per_image(loss, student, teacher).tolist() == pytest.approx(expected)


def test_the_loss_is_minimal_at_the_teachers_relations():
    # At equal temperatures, the gradient at the teacher's own embedding is zero.
    loss = make(student_temperature=0.5)
    loss = without_adapter(without_adapter(loss, "student"), "teacher").double()
    teacher = rand(3, 4)
    student = teacher.clone().requires_grad_()
    value = per_image(loss, student, teacher).sum()
    (pull,) = torch.autograd.grad(value, student)
    assert pull.abs().max() < 1e-12
    moved = student.detach() + 0.1 * rand(3, 4, seed=1)
    assert per_image(loss, moved, teacher).sum() > value


def test_the_teachers_embedding_is_fixed():
    assert not any(p.requires_grad for p in make().teacher.parameters())
    assert all(p.requires_grad for p in make().student.parameters())


@pytest.mark.parametrize(
    "name", ["entries", "student_temperature", "teacher_temperature", "channels"]
)
def test_values_out_of_range_are_refused(name):
    with pytest.raises(UserError, match=f"{name} must be a number above 0, got 0"):
        make(**{name: 0})
