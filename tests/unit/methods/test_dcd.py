"""DCD: two images by hand, a slow loop, and the trained temperature."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.maps import without_adapter
from helpers.outputs import batch_of, context_of, output_of, rand
from torch import Tensor

from kd_bench.interfaces import LossContext, UserError
from kd_bench.methods.dcd import DiscriminativeConsistent

CONTEXT = context_of({"pooled": (3,)}, {"pooled": (5,)})


def make(context: LossContext = CONTEXT, **changed) -> DiscriminativeConsistent:
    torch.manual_seed(0)
    return DiscriminativeConsistent(
        context, **{"channels": 4, "tau": 1.0, "sharpest": 10.0} | changed
    )


def plain(**changed) -> DiscriminativeConsistent:
    return without_adapter(without_adapter(make(**changed), "student"), "teacher")


def terms(loss: DiscriminativeConsistent, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
    both = output_of(pooled=student), output_of(pooled=teacher)
    return loss(*both, batch_of(CONTEXT, len(student)))


def test_two_images_by_hand():
    # Cosines [[1, 0], [1, 0]] times ln 3, with lengths that do not matter. By rows: (3/4, 1/4)
    # twice. By columns, for each image of the teacher: (1/2, 1/2) twice.
    student = torch.tensor([[2.0, 0.0], [5.0, 0.0]])
    teacher = torch.tensor([[7.0, 0.0], [0.0, 0.1]])
    value = terms(plain(tau=math.log(math.log(3))), student, teacher)
    assert value["contrast"].item() == pytest.approx(-(math.log(3 / 4) + math.log(1 / 4)) / 2)
    consistency = math.log(2 / 3) / 2 + math.log(2) / 2  # KL of (1/2, 1/2) and (3/4, 1/4)
    assert value["consistency"].item() == pytest.approx(consistency)


def test_it_matches_a_slow_loop():
    loss = make(tau=0.5).double()
    student, teacher = rand(4, 3), rand(4, 5, seed=1)
    s, t = (
        torch.nn.functional.normalize(x) for x in (loss.student(student), loss.teacher(teacher))
    )
    p = [[math.exp(math.exp(0.5) * float(a @ b)) for b in t.detach()] for a in s.detach()]
    contrast = consistency = 0.0
    for i in range(4):
        by_student = [p[i][j] / sum(p[i]) for j in range(4)]
        by_teacher = [p[j][i] / sum(row[i] for row in p) for j in range(4)]
        contrast -= math.log(by_student[i]) / 4
        pairs = zip(by_teacher, by_student, strict=True)
        consistency += sum(a * math.log(a / b) for a, b in pairs) / 4
    value = terms(loss, student, teacher)
    assert value["contrast"].item() == pytest.approx(contrast)
    assert value["consistency"].item() == pytest.approx(consistency)


def test_equal_embeddings_are_consistent():
    # Then the matrix of cosines is symmetric.
    x = rand(5, 3)
    assert terms(plain(), x, x)["consistency"].item() == pytest.approx(0, abs=1e-12)


def test_the_temperature_is_trained_up_to_its_bound():
    # The sharpest softmax separates equal embeddings best.
    x = rand(5, 3)
    for tau, moves in ((1.0, True), (2.2, True), (2.4, False)):  # ln 10 = 2.303
        loss = plain(tau=tau)
        value = terms(loss, x, x)["contrast"]
        value.backward()
        assert (loss.tau.grad.item() < 0) == moves
    assert value.item() == terms(plain(tau=50.0), x, x)["contrast"].item()


def test_for_uninformative_embeddings_the_contrast_is_the_log_of_the_batch_size():
    value = terms(plain(), torch.zeros(6, 3), torch.ones(6, 3))
    assert value["contrast"].item() == pytest.approx(math.log(6))
    assert value["consistency"].item() == 0


def test_a_single_image_has_no_loss():
    value = terms(make(), torch.ones(1, 3), torch.ones(1, 5))
    assert all(term.item() == 0 for term in value.values())


@pytest.mark.parametrize("name", ["channels", "sharpest"])
def test_values_out_of_range_are_refused(name):
    with pytest.raises(UserError, match=f"{name} must be a number above 0, got 0"):
        make(**{name: 0})
