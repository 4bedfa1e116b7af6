"""A distillation method: named losses, the weights of their terms, and plug-ins."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_bench.interfaces import Batch, LogitPair, LogitPlugin, Loss, LossValue, Networks, Output
from kd_bench.methods.common.functional import sum_of
from kd_bench.methods.common.plugins import Plugins, value_for
from kd_bench.utils.errors import UserError, require
from kd_bench.utils.text.formatting import pluralize
from kd_bench.utils.tracebacks import place, place_of

Inputs = tuple[Output, Output | None, Batch]  # of student and teacher, for a batch


def flatten_weights(weights: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """{"ce": 1, "rkd": {"angle": 50}} -> {"ce": 1.0, "rkd/angle": 50.0}.

    Raises:
        UserError: if a weight is not a finite number.
    """
    flat: dict[str, float] = {}
    for name, value in weights.items():
        if isinstance(value, Mapping):
            flat |= flatten_weights(value, f"{prefix}{name}/")
        else:
            is_number = isinstance(value, Real) and not isinstance(value, bool)
            require(is_number, f"the weight of '{prefix}{name}' must be a number, got {value!r}")
            require(math.isfinite(value), f"the weight of '{prefix}{name}' must not be {value}")
            flat[prefix + name] = float(value)
    return flat


@dataclass(frozen=True)
class _Phase:
    """The terms that a method computes in one training phase."""

    weights: Mapping[str, float]  # by term, in the order in which they are added up
    losses: tuple[str, ...]  # the losses with a weighted term


class Method(nn.Module):
    """The loss on labels and the losses of a method: unweighted terms and their weighted sum.

    It stores no current phase; each call passes the phase, "init" or "main".

    Args:
        losses: the losses by name; their parameters and buffers belong to this module.
        weights: a number for "ce" and for every term of the losses used in the main phase.
        ramp_epochs: term -> epochs over which its weight rises linearly: in epoch e (from 1), the
            weight is multiplied by `min(e / ramp_epochs, 1)`.
        init_weights: like `weights`, for the init phase before the main phase, if there is one.
            Terms without a weight in a phase are not computed in it.
        plugins: plug-ins by name, in the order in which they change what losses compare.
        label_loss: of logits [B, K] on the batch's labels: the term "ce".

    Raises:
        UserError: if terms and weights have different names, a ramp has no term, or a plug-in
            cannot act on the losses.
    """

    def __init__(
        self,
        losses: Mapping[str, Loss],
        weights: Mapping[str, Any],
        ramp_epochs: Mapping[str, Any] | None = None,
        init_weights: Mapping[str, Any] | None = None,
        plugins: Mapping[str, LogitPlugin] | None = None,
        label_loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    ):
        super().__init__()
        for name, loss in losses.items():
            _check_class(name, loss)
        _check_images(losses)
        _check_preparation(losses)
        self.losses = nn.ModuleDict(losses)
        self.plugins = Plugins(plugins or {}, losses)
        self.label_loss = label_loss
        self.ramp_epochs = flatten_weights(ramp_epochs or {})
        flat = {"init": flatten_weights(init_weights or {}), "main": flatten_weights(weights)}
        _check_weights([*flat["init"], *flat["main"]], self.terms)
        _check_ramps(self.ramp_epochs, self.terms)
        self._phases = {
            phase: _Phase(
                given,
                tuple(n for n in losses if not given.keys().isdisjoint(self._terms_of(n))),
            )
            for phase, given in flat.items()
        }

    @property
    def terms(self) -> list[str]:
        """Names of all terms, in the order of summation."""
        return ["ce", *(term for name in self.losses for term in self._terms_of(name))]

    @property
    def stages(self) -> tuple[str, ...]:
        """All network stages read by the losses, without duplicates."""
        return tuple(dict.fromkeys(stage for loss in self._all_losses for stage in loss.stages))

    def compared_stages(self, phase: str) -> tuple[str, ...] | None:
        """Stages read by the phase's losses that need the whole batch; None if there are none."""
        comparing = [
            loss
            for loss in map(self._loss, self._phases[phase].losses)
            if self._compares_images(loss)
        ]
        if not comparing:
            return None
        read = (stage for loss in comparing for stage in (*loss.stages, *loss.student_stages))
        return tuple(dict.fromkeys(read))

    def _compares_images(self, loss: Loss) -> bool:
        """Whether a loss, including plug-ins that act on it, is not a mean over images."""
        return not loss.is_mean_over_images or self.plugins.act_on(loss)

    @property
    def student_stages(self) -> tuple[str, ...]:
        """All stages read in the student: `stages`, and those read only in the student."""
        own = (stage for loss in self._all_losses for stage in loss.student_stages)
        return tuple(dict.fromkeys((*self.stages, *own)))

    @property
    def cuts(self) -> tuple[str, ...]:
        """All stages after which losses run the rest of a network, without duplicates."""
        return tuple(dict.fromkeys(stage for loss in self._all_losses for stage in loss.cuts))

    @property
    def needs_input_gradients(self) -> bool:
        """Whether any loss differentiates the networks with respect to images or features."""
        return any(loss.needs_input_gradients for loss in self._all_losses)

    @property
    def cuda_graph_safe(self) -> bool:
        """Whether a CUDA graph can hold all losses and plug-ins."""
        return all(part.cuda_graph_safe for part in self.parts.values())

    @property
    def label_readers(self) -> list[str]:
        """Names of the losses and plug-ins that need one label per image."""
        return [name for name, part in self.parts.items() if part.needs_labels]

    @property
    def distinct_image_losses(self) -> list[str]:
        """Names of the losses that need each image at most once in a batch."""
        return [name for name in self.losses if self._loss(name).needs_distinct_images]

    @property
    def needs_preparation(self) -> bool:
        """Whether any loss needs the teacher's outputs for all training images."""
        return self.preparations > 0

    @property
    def preparations(self) -> int:
        """The number of losses that need these outputs, each of which gets its own pass."""
        return sum(map(_prepares, self._all_losses))

    def prepare(self, outputs: Callable[[], Iterable[tuple[Output, Tensor]]]) -> None:
        """Pass new outputs to every loss that needs them; see `Loss.prepare`."""
        for loss in filter(_prepares, self._all_losses):
            loss.prepare(outputs())

    def on_epoch_start(self, phase: str) -> None:
        """Notify the losses and plug-ins of the start of an epoch in this phase."""
        for part in self.parts.values():
            part.on_epoch_start(phase)

    @property
    def parts(self) -> dict[str, Loss | LogitPlugin]:
        """All losses by name, and all plug-ins as "plugins.NAME"."""
        losses = {name: self._loss(name) for name in self.losses}
        return losses | {f"plugins.{name}": plugin for name, plugin in self.plugins}

    def weights_of(self, phase: str) -> Mapping[str, float]:
        """Term -> weight in a phase, before any ramp, in the order of the terms of `forward`."""
        return self._phases[phase].weights

    def extra_views(self, image: Tensor, phase: str = "main") -> dict[str, Tensor]:
        """Views of a batch's images requested by the losses of the phase, by name."""
        views: dict[str, Tensor] = {}
        for name in self._phases[phase].losses:
            views |= self._loss(name).extra_views(image)
        return views

    def teacher_index(self, index: Tensor, phase: str = "main") -> Tensor | None:
        """Indices [B] of the training images that the teacher sees; None for those of the batch."""
        others = [n for n in self._phases[phase].losses if _shows_others(self._loss(n))]
        return self._loss(others[0]).teacher_index(index) if others else None

    @property
    def shows_other_images(self) -> bool:
        """Whether the teacher sees other training images than the student in any phase."""
        return any(
            _shows_others(self._loss(n)) for each in self._phases.values() for n in each.losses
        )

    def views_per_step(self, image: Tensor) -> float:
        """Images that the student processes per image of a batch, in a step of the main phase.

        Args:
            image: images [B, 3, H, W] with arbitrary content.
        """
        views = self.extra_views(image)
        losses = [self._loss(name) for name in self._phases["main"].losses]
        return (
            1.0
            + sum(len(view) for view in views.values()) / len(image)
            + sum(loss.extra_student_images for loss in losses)
        )

    def forward(
        self,
        student: Output,
        teacher: Output | None,
        batch: Batch,
        networks: Networks | None = None,
        phase: str = "main",
        whole: Inputs | None = None,
    ) -> dict[str, Tensor]:
        """The unweighted terms of the phase, by name.

        `networks` is required if a loss declares `needs_networks`. If the batch is one process's
        share, `whole` has the whole batch and its outputs, for losses that compare images.

        Raises:
            UserError: a loss reads a stage, or returns terms, that its class does not declare.
        """
        terms = {"ce": self.label_loss(student.logits, batch.target)}
        active = {name: self._loss(name) for name in self._phases[phase].losses}
        pairs: list[LogitPair] = []
        own = (student, teacher, batch)
        everything = whole or own
        whole_student, whole_teacher, whole_batch = everything
        if whole_teacher is not None and any(map(self.plugins.act_on, active.values())):
            pairs = self.plugins(whole_student, whole_teacher, whole_batch)
        for name, loss in active.items():
            try:
                if whole_teacher is not None and self.plugins.act_on(loss):
                    outputs = whole_student, whole_teacher, whole_batch
                    values = [value_for(loss, pair, *outputs) for pair in pairs]
                else:
                    inputs = everything if self._compares_images(loss) else own
                    value = loss(*inputs, networks) if loss.needs_networks else loss(*inputs)
                    values = [(value, 1.0)]
                terms |= self._summed_terms(name, values, phase)
            except UserError as error:
                where = place(error) or place_of(type(loss).forward)
                raise UserError(f"loss '{name}'{where}: {error}") from error
        return {name: terms[name] for name in self.weights_of(phase)}

    def total(self, terms: Mapping[str, Tensor], epoch: Tensor, phase: str = "main") -> Tensor:
        """The weighted sum of `terms` in an epoch of the phase (epoch: a scalar tensor, from 1)."""
        weights = self.weights_of(phase)
        total = torch.zeros((), device=epoch.device)
        for name, term in terms.items():
            weight: float | Tensor = weights[name]
            if name in self.ramp_epochs:
                weight = weight * (epoch / self.ramp_epochs[name]).clamp(max=1.0)
            total = total + weight * term
        return total

    def _named_terms(self, name: str, value: object, phase: str) -> dict[str, Tensor]:
        """The terms that a loss returned, by name."""
        terms = self._loss(name).terms
        if not terms:
            return {name: _scalar(value, "forward must return a scalar tensor")}
        rule = f"forward must return a dict of the declared terms {', '.join(terms)}"
        entries = value if isinstance(value, Mapping) else {}
        named = {f"{name}/{entry}": term for entry, term in entries.items()}
        declared = set(self._terms_of(name))
        needed = declared & self.weights_of(phase).keys()
        if not needed <= named.keys() <= declared:
            raise UserError(f"{rule}, not {_in_words(value)}")
        return {
            term: _scalar(each, f"{rule}, each a scalar tensor") for term, each in named.items()
        }

    def _summed_terms(
        self, name: str, values: list[tuple[LossValue, float | Tensor]], phase: str
    ) -> dict[str, Tensor]:
        """The terms that a loss returned for several pairs, summed with factors, by name."""
        named = [(self._named_terms(name, value, phase), factor) for value, factor in values]
        first, *_ = named
        return {
            term: sum_of(_times(factor, terms[term]) for terms, factor in named)
            for term in first[0]
        }

    @property
    def _all_losses(self) -> list[Loss]:
        return [self._loss(name) for name in self.losses]

    def _loss(self, name: str) -> Loss:
        loss = self.losses[name]
        assert isinstance(loss, Loss)  # nn.ModuleDict forgets the type of its modules
        return loss

    def _terms_of(self, name: str) -> list[str]:
        return [f"{name}/{entry}" for entry in self._loss(name).terms] or [name]


def _check_class(name: str, loss: Loss) -> None:
    """Refuse a loss class that cannot work, regardless of what its `forward` computes."""
    where = f"loss '{name}'{place_of(type(loss).forward)}"
    declared = {"stages": loss.stages, "student_stages": loss.student_stages, "terms": loss.terms}
    for attribute, given in declared.items():
        # ("pooled") is a string, not a tuple, and would be iterated letter by letter.
        is_word = isinstance(given, str)
        require(not is_word, f"{where}: {attribute} must be a tuple: ('{given}',), with a comma")
    takes = ("student", "teacher", "batch", *(["networks"] if loss.needs_networks else []))
    is_there = type(loss).forward is not nn.Module.forward
    require(
        is_there and _can_be_called(loss.forward, len(takes)),
        f"{where}: {type(loss).__name__} needs a method forward(self, {', '.join(takes)})",
    )


def _shows_others(loss: Loss) -> bool:
    return type(loss).teacher_index is not Loss.teacher_index


def _check_images(losses: Mapping[str, Loss]) -> None:
    """Refuse losses with conflicting requirements on the images that the teacher sees."""
    showing = [name for name, loss in losses.items() if _shows_others(loss)]
    require(
        len(showing) < 2, f"{' and '.join(showing)} each show the teacher other images; use one"
    )
    for name, loss in losses.items():
        require(
            not showing or not loss.needs_input_gradients,
            f"{name} differentiates both networks with respect to the same images, but"
            f" {''.join(showing)} shows the teacher other images; use one",
        )


def _prepares(loss: Loss) -> bool:
    return type(loss).prepare is not Loss.prepare


def _check_preparation(losses: Mapping[str, Loss]) -> None:
    """Refuse losses that need statistics of the teacher if it is missing or is trained as well."""
    has_teacher = any(loss.needs_teacher for loss in losses.values())
    learns = any(loss.teacher_learns for loss in losses.values())
    for name, loss in losses.items():
        require(
            not _prepares(loss) or (has_teacher and not learns),
            f"loss '{name}' needs statistics of a trained teacher, but the method"
            f" {'trains its teacher' if learns else 'has none'}",
        )


def _can_be_called(function: Callable, arguments: int) -> bool:
    try:
        inspect.signature(function).bind(*range(arguments))
    except TypeError:
        return False
    return True


def _scalar(value: object, rule: str) -> Tensor:
    if isinstance(value, Tensor) and value.dim() == 0 and value.is_floating_point():
        return value
    raise UserError(f"{rule}, not {_in_words(value)}{_remedy(value)}")


def _times(factor: float | Tensor, term: Tensor) -> Tensor:
    is_one = isinstance(factor, float) and factor == 1.0
    return term if is_one else factor * term


def _in_words(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {pluralize(value.dim(), 'dimension')}, {value.dtype}"
    if isinstance(value, Mapping):
        return f"a dict of {', '.join(map(str, value)) or 'nothing'}"
    return "None" if value is None else f"a {type(value).__name__}"


def _remedy(value: object) -> str:
    """How to turn a value into a scalar, for some common mistakes."""
    if isinstance(value, Tensor):
        return "; take its mean()" if value.is_floating_point() else ""
    if isinstance(value, Mapping):
        return f"; or declare terms = {tuple(value)}"
    return "; .item() cuts off the gradient" if isinstance(value, Real) else ""


def _check_weights(weights: Iterable[str], terms: list[str]) -> None:
    if extra := [name for name in weights if name not in terms]:
        raise UserError(
            f"weight without a term: {', '.join(extra)}; the terms are {', '.join(terms)}"
        )
    if missing := [name for name in terms if name not in weights]:
        raise UserError(
            f"term without a weight: {', '.join(missing)}; set each one in method.weights"
        )


def _check_ramps(ramp_epochs: Mapping[str, float], terms: list[str]) -> None:
    for name, epochs in ramp_epochs.items():
        known = name in terms
        require(known, f"unknown term '{name}' in ramp_epochs; choose from {', '.join(terms)}")
        require(epochs > 0, f"ramp_epochs of '{name}' must be above 0, got {epochs}")
