"""Network outputs without a network, and checks of single losses."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor
from torch.autograd import gradcheck

from helpers.shipped import shapes
from kd_bench.interfaces import Batch, Loss, LossContext, Output

K = 4  # classes
Shapes = dict[str, tuple[int, ...]]


def rand(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.double)


def context_of(student: Shapes, teacher: Shapes, classes: int = K, images: int = 12) -> LossContext:
    """The context of two networks with these feature shapes, for images with cycling labels."""
    labels = torch.arange(images) % classes
    small, large = shapes("small", **student), shapes("large", **teacher)
    return LossContext(small, large, classes, labels, epochs=1)


def output_of(logits: Tensor | None = None, **features: Tensor) -> Output:
    return Output(torch.zeros(1, K) if logits is None else logits, features)


def batch_of(context: LossContext, size: int) -> Batch:
    """A batch of the first images of the training set."""
    index = torch.arange(size, device=context.labels.device)
    image = torch.zeros(size, 3, 4, 4, device=context.labels.device)
    return Batch(image, context.labels[index], index, torch.tensor(1.0))


def total(value: Tensor | dict[str, Tensor]) -> Tensor:
    return value if isinstance(value, Tensor) else sum(value.values())


def passes_gradcheck(loss: Loss, context: LossContext, size: int = 3) -> bool:
    """gradcheck in double precision, for the logits and all features that the loss reads."""
    loss.double()
    draws = torch.get_rng_state()
    teacher = output_of(rand(size, K, seed=9), **_features(context.teacher, loss, size, seed=1))
    student = _features(context.student, loss, size, seed=2)

    def value(logits: Tensor, *features: Tensor) -> Tensor:
        fresh = deepcopy(loss)  # every call updates memory banks
        torch.set_rng_state(draws)
        output = output_of(logits, **dict(zip(student, features, strict=True)))
        return total(fresh(output, teacher, batch_of(context, size)))

    inputs = [rand(size, K), *student.values()]
    return gradcheck(value, [x.requires_grad_() for x in inputs], atol=1e-7, fast_mode=True)


def has_finite_value_and_gradient(
    loss: Loss, context: LossContext, scale: float, size: int = 6
) -> bool:
    """In single precision: random features times `scale` against ones, and logits of +-1e4.

    A loss that reads no features gets logits of +-`scale`; 0 makes them all equal.
    """
    logits = (1e4 if loss.stages else scale) * torch.tensor([1.0, -1.0]).repeat(size, K // 2)
    student = {s: scale * x.float() for s, x in _features(context.student, loss, size).items()}
    teacher = {s: torch.ones(size, *context.teacher[s]) for s in loss.stages}
    leaves = [x.requires_grad_() for x in (logits, *student.values())]
    teacher_out = output_of(-logits.detach(), **teacher)
    value = total(loss(output_of(logits, **student), teacher_out, batch_of(context, size)))
    value.backward()
    learning = [x for x in (*leaves, *loss.parameters()) if x.grad is not None]
    return bool(value.isfinite()) and all(x.grad.isfinite().all() for x in learning)


def is_finite_for_random_logits(
    loss: Loss, context: LossContext, scale: float = 50.0, size: int = 6
) -> bool:
    """In single precision, for normal logits times `scale`: most probabilities underflow."""
    shape = size, context.num_classes
    student = (scale * rand(*shape).float()).requires_grad_()
    teacher = output_of(scale * rand(*shape, seed=1).float())
    value = total(loss(output_of(student), teacher, batch_of(context, size)))
    value.backward()
    return bool(value.isfinite()) and bool(student.grad.isfinite().all())


def needs_no_device_sync(make, context: LossContext, size: int = 3) -> bool:
    """Compute loss and gradient on the meta device, without reading a value.

    Everything there that would synchronize with a GPU (`.item()`, `if tensor:`, boolean indexing)
    raises an error.
    """
    with torch.device("meta"):
        labels = torch.empty(len(context.labels), dtype=torch.long)
        context = replace(context, labels=labels)
        loss = make(context)
        student, teacher = (
            output_of(
                torch.empty(size, context.num_classes),
                **{s: torch.empty(size, *net[s]) for s in loss.stages},
            )
            for net in (context.student, context.teacher)
        )
        student.logits.requires_grad_()
        for feature in student.features.values():
            feature.requires_grad_()
        total(loss(student, teacher, batch_of(context, size))).backward()
    return True


def _features(network: Shapes, loss: Loss, size: int, seed: int = 0) -> dict[str, Tensor]:
    stages = enumerate(loss.stages)
    return {stage: rand(size, *network[stage], seed=seed + 10 * i) for i, stage in stages}
