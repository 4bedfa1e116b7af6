"""A method: named losses, and the weights of their terms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Real

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_bench.interfaces import Batch, Loss, Output
from kd_bench.utils.errors import UserError, require


def flatten_weights(weights: Mapping, prefix: str = "") -> dict[str, float]:
    """{"ce": 1, "rkd": {"angle": 50}} -> {"ce": 1.0, "rkd/angle": 50.0}.

    Raises:
        UserError: for a weight that is no number.
    """
    flat: dict[str, float] = {}
    for name, value in weights.items():
        if isinstance(value, Mapping):
            flat |= flatten_weights(value, f"{prefix}{name}/")
        else:
            is_number = isinstance(value, Real) and not isinstance(value, bool)
            require(is_number, f"the weight of '{prefix}{name}' must be a number, got {value!r}")
            flat[prefix + name] = float(value)
    return flat


class Method(nn.Module):
    """Cross entropy and the losses of a method, computed raw and added up by weight.

    Args:
        losses: the losses by name. Their parameters, adapters and memories are this module's.
        weights: a number for "ce" and for every term of the losses that the main stage has.
        ramp_epochs: term -> epochs in which its weight rises linearly to its value: in epoch e
            (from 1) it is `min(e / ramp_epochs, 1)` times the weight.
        init_weights: as `weights`, for the stage of training before training, if there is one.
            Terms that a stage has no weight for are not computed in it.

    Raises:
        UserError: where the names of terms and weights differ, or a ramp has no term.
    """

    def __init__(
        self,
        losses: Mapping[str, Loss],
        weights: Mapping,
        ramp_epochs: Mapping | None = None,
        init_weights: Mapping | None = None,
    ):
        super().__init__()
        self.losses = nn.ModuleDict(losses)
        stages = {"init": init_weights or {}, "main": weights}
        self._weights = {stage: flatten_weights(given) for stage, given in stages.items()}
        self.ramp_epochs = flatten_weights(ramp_epochs or {})
        _check_weights([*self._weights["init"], *self._weights["main"]], self.terms)
        for name, epochs in self.ramp_epochs.items():
            known = name in self.terms
            require(known, f"ramp_epochs has '{name}'; the terms are {', '.join(self.terms)}")
            require(epochs > 0, f"ramp_epochs of '{name}' must be above 0, got {epochs}")
        self.on_epoch_start("main")

    @property
    def terms(self) -> list[str]:
        """Names of all terms, in the order in which they are added up."""
        return ["ce", *(term for name in self.losses for term in self._terms_of(name))]

    @property
    def stages(self) -> tuple[str, ...]:
        """Every stage of a network that some loss reads, once."""
        return tuple(dict.fromkeys(stage for loss in self.losses.values() for stage in loss.stages))

    @property
    def needs_input_gradients(self) -> bool:
        """Whether some loss differentiates inside the networks."""
        return any(loss.needs_input_gradients for loss in self.losses.values())

    @property
    def cuda_graph_safe(self) -> bool:
        """Whether a CUDA graph can hold all losses."""
        return all(loss.cuda_graph_safe for loss in self.losses.values())

    def on_epoch_start(self, phase: str) -> None:
        """An epoch of the stage "init" or "main" begins: its weights, its terms."""
        self.weights = self._weights[phase]
        self._active = [
            n for n in self.losses if not self.weights.keys().isdisjoint(self._terms_of(n))
        ]
        for loss in self.losses.values():
            loss.on_epoch_start(phase)

    def extra_views(self, image: Tensor) -> dict[str, Tensor]:
        """The views of a batch's images that the stage's losses ask for, by name."""
        views: dict[str, Tensor] = {}
        for name in self._active:
            views |= self.losses[name].extra_views(image)
        return views

    def forward(self, student: Output, teacher: Output | None, batch: Batch) -> dict[str, Tensor]:
        """The terms that the stage has weights for, unweighted, by name."""
        terms = {"ce": F.cross_entropy(student.logits, batch.target)}
        for name in self._active:
            value = self.losses[name](student, teacher, batch)
            if isinstance(value, Tensor):
                terms[name] = value
            else:
                terms |= {f"{name}/{entry}": term for entry, term in value.items()}
        return {name: terms[name] for name in self.weights}

    def total(self, terms: Mapping[str, Tensor], epoch: Tensor) -> Tensor:
        """The weighted sum of `terms` in an epoch of the stage (a scalar tensor, from 1)."""
        total = torch.zeros((), device=epoch.device)
        for name, term in terms.items():
            weight = self.weights[name]
            if name in self.ramp_epochs:
                weight = weight * (epoch / self.ramp_epochs[name]).clamp(max=1.0)
            total = total + weight * term
        return total

    def _terms_of(self, name: str) -> list[str]:
        return [f"{name}/{entry}" for entry in self.losses[name].terms] or [name]


def _check_weights(weights: Iterable[str], terms: list[str]) -> None:
    if extra := [name for name in weights if name not in terms]:
        raise UserError(
            f"weight without a term: {', '.join(extra)}; the terms are {', '.join(terms)}"
        )
    if missing := [name for name in terms if name not in weights]:
        raise UserError(
            f"term without a weight: {', '.join(missing)}; give each a number in method.weights"
        )
