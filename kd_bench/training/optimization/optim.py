"""The optimizers: SGD, AdamW and LAMB."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from kd_bench.config.schema import OptimizerName, RecipeConfig


class Optimizer:
    """Base class of the optimizers; the learning rate is a tensor on the device.

    SGD and AdamW call PyTorch's functions, because the classes of `torch.optim` import the compiler
    on first use, which costs every job a second (as does the function `adamw`). The state is
    initialized with zeros, so that all steps are alike and can be captured. Parameters without a
    gradient are not updated.

    Args:
        parameters: all trained parameters.
        recipe: the hyperparameters and the first learning rate.
        fused: use one kernel for many parameters, which rounds differently from separate updates.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], recipe: RecipeConfig, *, fused: bool):
        self.parameters = list(parameters)
        # The learning rate of the next step.
        self.rate = torch.tensor(recipe.lr, device=self.parameters[0].device)
        self._recipe, self._fused = recipe, fused
        self._groups = _groups(self.parameters, recipe)
        # The gradients of the batches since the last update; zero after every update.
        self.accumulated = (
            [torch.zeros_like(p) for p in self.parameters] if recipe.accumulate > 1 else []
        )
        # Indices of the parameters that had a gradient since the last update. Cleared by the next
        # batch, not by the update, which is run several times before it is captured.
        self._reached: set[int] = set()
        self._has_updated = False

    @property
    def state(self) -> list[Tensor]:
        """All tensors that a step changes besides the parameters."""
        raise NotImplementedError

    @property
    def parts(self) -> Sequence[Sequence[str]]:
        """Groups of terms whose gradients `backward` computes separately; none by default."""
        return ()

    def zero_grad(self) -> None:
        """Reset the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def backward(self, total: Tensor, parts: Sequence[Tensor]) -> None:
        """Compute the gradients that `step` uses.

        Args:
            total: the weighted sum of all terms.
            parts: the weighted sum of the terms of each of `self.parts`.
        """
        self.zero_grad()
        total.backward()

    @torch.no_grad()
    def accumulate(self, batches: int, *, is_last: bool) -> None:
        """Accumulate the gradients of one of several batches.

        Args:
            batches: the number of batches whose mean gradient the next update uses.
            is_last: this is the last batch; the mean becomes the gradient that `step` uses.
        """
        if self._has_updated and not is_last:
            self._reached.clear()
        self._has_updated = is_last
        for place, accumulated in enumerate(self.accumulated):
            parameter = self.parameters[place]
            if parameter.grad is not None:
                self._reached.add(place)
                accumulated.add_(parameter.grad, alpha=1 / batches)
            if is_last and place in self._reached:
                if parameter.grad is None:
                    parameter.grad = torch.empty_like(parameter)
                parameter.grad.copy_(accumulated)
                accumulated.zero_()

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters that have a gradient."""
        for weight_decay, places in self._groups:
            gradients = {place: self.parameters[place].grad for place in places}
            reached = {place: grad for place, grad in gradients.items() if grad is not None}
            if reached:
                self._update(list(reached), list(reached.values()), weight_decay)

    def _update(self, places: list[int], gradients: list[Tensor], weight_decay: float) -> None:
        """Update the parameters at these indices of the list."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, list]:
        """The state needed to resume training."""
        raise NotImplementedError

    def load_state_dict(self, state: dict[str, list]) -> None:
        """Restore a `state_dict`, in place."""
        raise NotImplementedError


def _groups(parameters: list[nn.Parameter], recipe: RecipeConfig) -> list[tuple[float, list[int]]]:
    """Parameter groups: the weight decay, and the indices of the parameters that have it."""
    if recipe.decay_vectors:
        return [(recipe.weight_decay, list(range(len(parameters))))]
    is_vector = [parameter.dim() < 2 for parameter in parameters]
    return [
        (weight_decay, [place for place, found in enumerate(is_vector) if found == wanted])
        for weight_decay, wanted in ((recipe.weight_decay, False), (0.0, True))
    ]


class SGD(Optimizer):
    """Stochastic gradient descent with momentum.

    After the first step, momentum buffers equal that step's gradient. Weight decay applies to all
    parameters including batch norm, as in the field's reference code, unless the recipe excludes
    vectors.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], recipe: RecipeConfig, *, fused: bool):
        super().__init__(parameters, recipe, fused=fused)
        has_momentum = recipe.momentum > 0
        self.momentum = [torch.zeros_like(p) if has_momentum else None for p in self.parameters]

    @property
    def momentum_buffers(self) -> list[Tensor]:
        """The momentum of every parameter; empty for a recipe without momentum."""
        return [momentum for momentum in self.momentum if momentum is not None]

    @property
    def state(self) -> list[Tensor]:
        """All tensors that a step changes besides the parameters."""
        return self.momentum_buffers

    def _update(self, places: list[int], gradients: list[Tensor], weight_decay: float) -> None:
        sgd(
            [self.parameters[place] for place in places],
            gradients,
            [self.momentum[place] for place in places],
            foreach=False,
            fused=self._fused,
            weight_decay=weight_decay,
            momentum=self._recipe.momentum,
            lr=self.rate,  # type: ignore[arg-type]  # annotated as float, but tensors are supported
            dampening=0.0,
            nesterov=self._recipe.nesterov,
            maximize=False,
        )

    def state_dict(self) -> dict[str, list]:
        """The state needed to resume training."""
        return {"momentum": self.momentum_buffers}

    def load_state_dict(self, state: dict[str, list]) -> None:
        """Restore a `state_dict`, in place."""
        for momentum, saved in zip(self.momentum_buffers, state["momentum"], strict=True):
            momentum.copy_(saved)


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019), arXiv:1711.05101.

    The recipe's momentum is beta1; beta2 and epsilon are the defaults of PyTorch and timm.
    """

    BETA2 = 0.999
    EPSILON = 1e-8

    def __init__(self, parameters: Iterable[nn.Parameter], recipe: RecipeConfig, *, fused: bool):
        super().__init__(parameters, recipe, fused=fused)
        self._means = [torch.zeros_like(p) for p in self.parameters]
        self._squares = [torch.zeros_like(p) for p in self.parameters]
        # The host reads the step count, unless the kernel is fused.
        device = self.rate.device if fused else torch.device("cpu")
        self._steps = [torch.zeros((), device=device) for _ in self.parameters]

    @property
    def state(self) -> list[Tensor]:
        """All tensors that a step changes besides the parameters."""
        return [*self._means, *self._squares, *self._steps]

    def _update(self, places: list[int], gradients: list[Tensor], weight_decay: float) -> None:
        adamw(
            [self.parameters[place] for place in places],
            gradients,
            [self._means[place] for place in places],
            [self._squares[place] for place in places],
            [],
            [self._steps[place] for place in places],
            foreach=False,
            fused=self._fused,
            amsgrad=False,
            beta1=self._recipe.momentum,
            beta2=self.BETA2,
            lr=self.rate,
            weight_decay=weight_decay,
            eps=self.EPSILON,
            maximize=False,
        )

    def state_dict(self) -> dict[str, list]:
        """The state needed to resume training."""
        return {"means": self._means, "squares": self._squares, "steps": self._steps}

    def load_state_dict(self, state: dict[str, list]) -> None:
        """Restore a `state_dict`, in place."""
        saved = [*state["means"], *state["squares"], *state["steps"]]
        for tensor, value in zip(self.state, saved, strict=True):
            tensor.copy_(value)


class Lamb(Optimizer):
    """LAMB (You et al., 2020), arXiv:1904.00962, algorithm 2, as implemented in timm.

    The update of a parameter with weight decay is Adam's plus the decay, scaled by the ratio of the
    parameter's norm to the norm of this sum; without decay, as for vectors, it is Adam's. All
    gradients are first divided by their global norm if it is above 1. The recipe's momentum is
    beta1; beta2 and epsilon are the defaults of timm.
    """

    BETA2 = 0.999
    EPSILON = 1e-6

    def __init__(self, parameters: Iterable[nn.Parameter], recipe: RecipeConfig, *, fused: bool):
        super().__init__(parameters, recipe, fused=fused)
        self._means = [torch.zeros_like(p) for p in self.parameters]
        self._squares = [torch.zeros_like(p) for p in self.parameters]
        # Double precision keeps the digits of 1 - BETA2.
        self._steps = torch.zeros((), dtype=torch.float64, device=self.rate.device)
        self._excess = torch.ones((), device=self.rate.device)  # max(1, global gradient norm)

    @property
    def state(self) -> list[Tensor]:
        """All tensors that a step changes besides the parameters."""
        return [*self._means, *self._squares, self._steps]

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters that have a gradient."""
        norms = [p.grad.norm() for p in self.parameters if p.grad is not None]
        self._excess = torch.stack(norms).norm().clamp(min=1.0)
        self._steps += 1
        super().step()

    def _update(self, places: list[int], gradients: list[Tensor], weight_decay: float) -> None:
        beta1, beta2 = self._recipe.momentum, self.BETA2
        of_mean, of_square = 1 - beta1**self._steps, 1 - beta2**self._steps
        for place, gradient in zip(places, gradients, strict=True):
            parameter, mean, square = (
                each[place] for each in (self.parameters, self._means, self._squares)
            )
            gradient = gradient / self._excess
            mean.mul_(beta1).add_(gradient, alpha=1 - beta1)
            square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            update = (mean / of_mean) / ((square / of_square).sqrt() + self.EPSILON)
            if weight_decay:
                update += weight_decay * parameter
                update *= _trust(parameter.norm(), update.norm())
            parameter -= self.rate * update

    def state_dict(self) -> dict[str, list]:
        """The state needed to resume training."""
        return {"means": self._means, "squares": self._squares, "steps": [self._steps]}

    def load_state_dict(self, state: dict[str, list]) -> None:
        """Restore a `state_dict`, in place."""
        saved = [*state["means"], *state["squares"], *state["steps"]]
        for tensor, value in zip(self.state, saved, strict=True):
            tensor.copy_(value)


def _trust(parameter: Tensor, update: Tensor) -> Tensor:
    """The ratio of a parameter's norm to that of its update; 1 if either is 0."""
    is_zero = (parameter == 0) | (update == 0)
    return torch.where(is_zero, 1.0, parameter / update.masked_fill(is_zero, 1.0))


def make_optimizer(
    parameters: Iterable[nn.Parameter], recipe: RecipeConfig, *, fused: bool
) -> Optimizer:
    """Build the recipe's optimizer; arguments as for `Optimizer`."""
    kinds: dict[OptimizerName, type[Optimizer]] = {
        OptimizerName.sgd: SGD,
        OptimizerName.adamw: AdamW,
        OptimizerName.lamb: Lamb,
    }
    return kinds[recipe.optimizer](parameters, recipe, fused=fused)
