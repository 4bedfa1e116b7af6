"""CRD: the contrast by hand, sampling of negatives, and memory banks compared with a loop."""

from __future__ import annotations

import io
import math

import pytest
import torch
from helpers.outputs import batch_of, context_of, output_of, rand
from torch import Tensor

from kd_bench.interfaces import Batch, LossContext, Output, UserError
from kd_bench.methods.crd import ContrastiveDistillation, noise_contrast, sample_others

CONTEXT = context_of({"pooled": (3,)}, {"pooled": (5,)})  # twelve images, four classes of three


def make(context: LossContext, **changed) -> ContrastiveDistillation:
    values = {"negatives": 5, "temperature": 0.5, "momentum": 0.5, "channels": 6}
    return ContrastiveDistillation(context, **values | changed)


def outputs(size: int, seed: int = 0) -> tuple[Output, Output]:
    features = rand(size, 3, seed=seed), rand(size, 5, seed=seed + 1)
    return tuple(output_of(pooled=x.float()) for x in features)


# --- the contrast -----------------------------------------------------------------------------


def test_one_image_against_two_others():
    # Two negatives of four images: m/N = 1/2. The positive has u = 1/2: log(0.5 / 1) = -ln 2; the
    # negatives 1/2 and 3/2: log(0.5 / 1) = -ln 2 and log(0.5 / 2) = -ln 4. Together 4 ln 2; the
    # last entries are not negatives.
    others = torch.tensor([[0.5, 1.5, 7.0, 9.0]]).log()
    counts = torch.tensor([[True, True, False, False]])
    value = noise_contrast(torch.tensor([0.5]).log(), others, counts, total=4)
    assert value.item() == pytest.approx(4 * math.log(2))


def test_likelihoods_beyond_the_range_of_exp_are_handled():
    positive = torch.tensor([-500.0, 500.0], requires_grad=True)
    others = torch.tensor([[500.0, -500.0], [-500.0, -500.0]], requires_grad=True)
    value = noise_contrast(positive, others, torch.ones(2, 2, dtype=torch.bool), total=2)
    value.backward()
    # m/N = 1, log 1 = 0: -log u of the first positive, log u of its first negative; the rest is 0
    assert value.item() == pytest.approx((500 + 500) / 2)
    assert positive.grad.tolist() == [-0.5, 0]
    assert others.grad.tolist() == [[0.5, 0], [0, 0]]


# --- the negatives ----------------------------------------------------------------------------


def test_negatives_are_of_other_classes_and_of_the_requested_number():
    labels = torch.arange(300) % 7
    target = torch.tensor([0, 3, 3, 6])
    chosen = sample_others(labels, target, 100)
    assert chosen.sum(1).tolist() == [100] * 4
    for row, own in zip(chosen, target, strict=True):
        assert own not in labels[row]
    assert not torch.equal(chosen[1], chosen[2])  # sampled independently for each image


def test_all_others_are_negatives_if_there_are_fewer_than_requested():
    # Classes of 1, 2 and 3 images: 5, 4 and 3 others
    labels = torch.tensor([0, 1, 1, 2, 2, 2])
    chosen = sample_others(labels, torch.tensor([0, 1, 2]), 4)
    assert chosen.sum(1).tolist() == [4, 4, 3]
    assert chosen[1].tolist() == [True, False, False, True, True, True]
    assert torch.equal(sample_others(labels, labels, 16384), labels[None] != labels[:, None])


def test_images_of_other_classes_are_sampled_uniformly():
    # 10 of 30, 2000 times: each with probability 1/3; five standard deviations are 105.
    torch.manual_seed(0)
    labels = torch.cat([torch.zeros(10), torch.ones(30)]).long()
    often = sample_others(labels, torch.zeros(2000).long(), 10).sum(0)
    assert not often[:10].any()
    assert (often[10:] - 2000 / 3).abs().max() < 5 * math.sqrt(2000 * 1 / 3 * 2 / 3)


def test_the_number_of_negatives_is_exposed():
    # 12 images in four classes of three, so 9 others
    assert make(CONTEXT, negatives=5).negatives_used.tolist() == [5, 5, 5, 5]
    assert make(CONTEXT, negatives=16384).negatives_used.tolist() == [9, 9, 9, 9]
    uneven = LossContext(
        CONTEXT.student, CONTEXT.teacher, 3, torch.tensor([0, 1, 1, 2, 2, 2]), epochs=1
    )
    assert make(uneven, negatives=4).negatives_used.tolist() == [4, 4, 3]


# --- the memories -----------------------------------------------------------------------------


def slow_step(bank: dict, z: dict, anchor: dict, index: list[int], labels: list[int]) -> float:
    """RepDistiller's step in loops, with all other-class images as negatives; updates `bank`."""
    images, loss = len(labels), 0.0
    for side, memory in (("student", "teacher"), ("teacher", "student")):
        scores = []
        for i, image in enumerate(index):
            others = [k for k in range(images) if labels[k] != labels[image]]
            entries = [bank[memory][k] for k in (image, *others)]
            scores.append([math.exp(float(anchor[side][i] @ entry) / 0.5) for entry in entries])
        flat = [score for row in scores for score in row]
        z.setdefault(side, images * sum(flat) / len(flat))
        for own, *others in scores:
            noise = len(others) / images
            loss -= math.log(own / z[side] / (own / z[side] + noise)) / len(index)
            loss -= sum(math.log(noise / (u / z[side] + noise)) for u in others) / len(index)
    for side, rows in bank.items():
        for i, image in enumerate(index):
            moved = 0.5 * rows[image] + 0.5 * anchor[side][i]
            rows[image] = moved / moved.norm()
    return loss


def test_two_steps_match_a_loop():
    loss = make(CONTEXT, negatives=16384).double()
    bank = {side: getattr(loss, f"{side}_memory").bank.clone() for side in ("student", "teacher")}
    z: dict[str, float] = {}
    for step, index in enumerate(([0, 1, 2], [2, 7, 8])):
        features = {"student": rand(3, 3, seed=step), "teacher": rand(3, 5, seed=5 + step)}
        anchor = {
            side: torch.nn.functional.normalize(getattr(loss, side)(x), dim=1).detach()
            for side, x in features.items()
        }
        batch = Batch(torch.zeros(3), CONTEXT.labels[index], torch.tensor(index), torch.tensor(1.0))
        student, teacher = (output_of(pooled=x) for x in features.values())
        value = loss(student, teacher, batch).item()
        expected = slow_step(bank, z, anchor, index, CONTEXT.labels.tolist())
        assert value == pytest.approx(expected, rel=1e-9)
        for side in ("student", "teacher"):
            torch.testing.assert_close(getattr(loss, f"{side}_memory").bank, bank[side])


def test_the_constant_is_fixed_by_the_first_batch():
    loss = make(CONTEXT)
    seen = []
    for seed in range(3):
        loss(*outputs(4, seed), batch_of(CONTEXT, 4))
        seen.append((loss.student_memory.log_constant.item(), loss.teacher_memory.log_constant))
    assert seen[0] == seen[1] == seen[2]
    assert math.isfinite(seen[0][0])


def test_only_the_rows_of_the_batch_are_updated_to_unit_length():
    loss = make(CONTEXT)
    before = loss.student_memory.bank.clone()
    loss(*outputs(4), batch_of(CONTEXT, 4))
    after = loss.student_memory.bank
    assert torch.equal(after[4:], before[4:])
    torch.testing.assert_close(after[:4].norm(dim=1), torch.ones(4))
    assert (after[:4] != before[:4]).any(1).all()


def test_memory_rows_are_initialized_with_unit_length_on_average():
    # Uniform in +-sqrt(3 / D) has variance 1 / D, so squares of D entries sum to one on average.
    bank = make(
        context_of(CONTEXT.student, CONTEXT.teacher, images=400), channels=128
    ).student_memory.bank
    assert bank.square().sum(1).mean().item() == pytest.approx(1, abs=0.02)
    assert bank.abs().max() <= math.sqrt(3 / 128)


def trained(loss: ContrastiveDistillation, steps: range) -> list[Tensor]:
    torch.manual_seed(steps.start)
    return [loss(*outputs(4, seed), batch_of(CONTEXT, 4)).detach() for seed in steps]


def test_memory_banks_survive_a_checkpoint_bit_for_bit():
    loss, file = make(CONTEXT), io.BytesIO()
    trained(loss, range(3))
    torch.save(loss.state_dict(), file)
    expected = trained(loss, range(3, 6))
    file.seek(0)
    other = make(CONTEXT)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert all(map(torch.equal, trained(other, range(3, 6)), expected))
    for name, tensor in loss.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)


@pytest.mark.slow
def test_it_needs_less_than_half_a_gigabyte_for_cifar():
    # Tensors saved for backward, and the memory banks. Gathered vectors, as in other
    # implementations, would take 64 x 16,385 x 128 floats, or 0.5 GB, per direction.
    context = context_of({"pooled": (64,)}, {"pooled": (64,)}, classes=100, images=50_000)
    loss = make(context, negatives=16384, channels=128)
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return x

    student, teacher = (output_of(pooled=torch.randn(64, 64)) for _ in range(2))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss(student, teacher, batch_of(context, 64))
    memories = sum(buffer.nbytes for buffer in loss.buffers())
    assert sum(kept.values()) + memories < 0.5e9


# --- as a loss --------------------------------------------------------------------------------


def test_a_gradient_step_decreases_it():
    loss, batch = make(CONTEXT, negatives=16384), batch_of(CONTEXT, 4)
    student, teacher = outputs(4)
    loss(student, teacher, batch)  # fills the memory with the teacher's embeddings
    state = {name: tensor.clone() for name, tensor in loss.state_dict().items()}
    student.features["pooled"].requires_grad_()
    first = loss(student, teacher, batch)
    (pull,) = torch.autograd.grad(first, student.features["pooled"])
    loss.load_state_dict(state)
    nearer = output_of(pooled=student.features["pooled"].detach() - 0.01 * pull)
    assert pull.any()
    assert loss(nearer, teacher, batch) < first


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"negatives": 0}, "negatives must be a number above 0, got 0"),
        ({"temperature": 0.0}, "temperature must be a number above 0, got 0.0"),
        ({"channels": -1}, "channels must be a number above 0, got -1"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1, got 1.0"),
    ],
)
def test_values_out_of_range_are_refused(changed, message):
    with pytest.raises(UserError, match=message):
        make(CONTEXT, **changed)


def test_a_single_class_is_refused():
    with pytest.raises(UserError, match=r"^CRD contrasts classes and needs two or more, got 1$"):
        make(context_of({"pooled": (3,)}, {"pooled": (5,)}, classes=1))
