"""The shared types: Batch, Output, StageShapes, LossContext, Loss, and other parts of methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_bench.utils.errors import UserError, require, require_positive

__all__ = [
    "Batch",
    "Classifier",
    "ForwardPass",
    "GradientRule",
    "Head",
    "LogitPair",
    "LogitPlugin",
    "Loss",
    "LossContext",
    "LossValue",
    "Networks",
    "Output",
    "PerImageLoss",
    "Rest",
    "Spec",
    "StageShapes",
    "UserError",
    "require",
    "require_positive",
]


@dataclass
class Batch:
    """Input of a training step.

    The next step may overwrite `image`: to keep it, clone it.
    """

    image: Tensor  # [B, 3, H, W] float, normalised, augmented
    target: Tensor  # [B] int64 labels; [B, K] float label weights if images are mixed
    index: Tensor  # [B] int64, position in the training set
    epoch: Tensor  # [] float, from 1; a tensor, so that a captured CUDA graph sees updates
    view: Tensor | None = None  # [B] int64, number of each image's augmented view (crop, flip)


@dataclass
class Output:
    """Output of a network's forward pass."""

    logits: Tensor  # [B, K]
    features: dict[str, Tensor] = field(default_factory=dict)  # by stage, requested stages only
    views: dict[str, Output] = field(default_factory=dict)  # outputs for `Loss.extra_views`


ForwardPass: TypeAlias = Callable[[Tensor], Output]  # images [B, 3, H, W] -> logits and features
Classifier: TypeAlias = Callable[
    [Tensor], Tensor
]  # features [N, C] like those at `pooled` -> logits [N, K]
LossValue: TypeAlias = Tensor | dict[str, Tensor]


class Rest(Protocol):
    """The layers of a network after a stage, applied to features that need not be its own."""

    def __call__(self, start: str, feature: Tensor, then: Sequence[str] = ()) -> Output:
        """Logits and features of the later stages `then`, from features [B, C, ...] at `start`."""


@dataclass(frozen=True)
class Networks:
    """Both networks as the training step runs them, for losses that run them on other inputs.

    The classifiers, always in single precision, are for losses that classify features other than
    those at `pooled`: None if `pooled` is not the classifier's input (`StageShapes.classifier`).
    The rests, also in single precision, are for losses that run the layers after a stage, which
    must be listed in `Loss.cuts`. These runs do not update batch norm's running statistics.
    """

    student: ForwardPass
    teacher: ForwardPass | None  # None for a method without a teacher
    student_classifier: Classifier | None = None
    teacher_classifier: Classifier | None = None
    student_rest: Rest | None = None
    teacher_rest: Rest | None = None  # None for a method without a teacher


class StageShapes(dict[str, tuple[int, ...]]):
    """Feature shapes by stage, without the batch axis: {"stage2": (32, 16, 16), "pooled": (64,)}.

    Args:
        model: name of the network, for error messages.
        shapes: shape of each stage.
        paths: module path of each stage.
        modules: paths of modules that could become stages, for a network without any.
    """

    def __init__(
        self,
        model: str,
        shapes: Mapping[str, tuple[int, ...]],
        paths: Mapping[str, str],
        modules: Iterable[str] = (),
    ):
        super().__init__(shapes)
        self.model, self.paths, self.modules = model, dict(paths), tuple(modules)

    def __missing__(self, stage: str) -> tuple[int, ...]:
        if self:
            known = ", ".join(self)
            raise UserError(f"unknown stage '{stage}' of {self.model}; choose from {known}")
        if not self.modules:
            raise UserError(
                f"{self.model} provides only logits, but the method reads stage '{stage}'"
            )
        raise UserError(
            f"{self.model} has no stages, but the method reads '{stage}'; add them to its YAML, as"
            f" in stages: {{{stage}: PATH}}; PATH is one of {', '.join(self.modules)}, or"
            " PATH:input"
        )

    def is_rearranged(self, stage: str) -> bool:
        """Whether a stage is rearranged from tokens or a channels-last map: `path:map`."""
        return ":map" in self.paths.get(stage, "")

    @property
    def classifier(self) -> str:
        """Path of the module whose input is the stage `pooled`.

        Raises:
            UserError: if `pooled` is not the input of a module.
        """
        self["pooled"]  # raises UserError if missing
        path, _, what = self.paths["pooled"].partition(":")
        require(
            what == "input",
            f"stage 'pooled' of {self.model} must be its classifier's input, like fc:input, "
            f"got {path}",
        )
        return path


@dataclass(frozen=True)
class LossContext:
    """What a loss is built from: feature shapes of both networks, and facts of the training set."""

    student: StageShapes
    teacher: StageShapes | None  # None for a method without a teacher
    num_classes: int
    labels: Tensor  # [N] int64, labels of the training images, by index
    epochs: int  # length of the main phase
    teacher_net: nn.Module | None = None  # frozen; for losses that read weights or statistics
    # Images are (pixel - mean) / std with pixels in [0, 1]. For losses that change images.
    mean: Tensor = field(default_factory=lambda: torch.zeros(3))  # [3], per channel
    std: Tensor = field(default_factory=lambda: torch.ones(3))
    # The recipe's loss of logits [B, K] on `Batch.target`; a method's `ce` uses it already.
    label_loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy

    @property
    def teacher_shapes(self) -> StageShapes:
        """`teacher`, for losses that need one.

        Raises:
            RuntimeError: if there is no teacher because every loss has `needs_teacher = False`.
        """
        if self.teacher is None:
            raise RuntimeError("a loss with needs_teacher = False reads the teacher's shapes")
        return self.teacher


Spec = LossContext  # its name up to version 0.1
_RENAMED = {  # attributes of `Loss` up to version 0.1, and their new names
    "taps": "stages",
    "more_views": "extra_views",
    "needs_graph": "needs_input_gradients",
    "capturable": "cuda_graph_safe",
    "same_model": "teacher_is_same_model",
    "begin": "on_epoch_start",
}


class Loss(nn.Module):
    """One loss of a method: its formula, its hyperparameters and its trainable modules.

    A subclass takes `context` first and its hyperparameters by name, and validates them with
    `require`. Adapters and memory banks are ordinary submodules and buffers, sized by `context`.
    Capabilities are class attributes, so that a YAML file cannot contradict the code.

    `forward(student, teacher, batch)` takes the `Output` of both networks and the `Batch`, and
    returns the unweighted loss, a scalar, or a dict of its unweighted terms. `teacher` is None for
    a method without a teacher; with `needs_networks`, `Networks` is passed as fourth argument.
    """

    stages: tuple[str, ...] = ()  # stages read from both networks
    student_stages: tuple[str, ...] = ()  # further stages, read from the student only
    terms: tuple[str, ...] = ()  # names of the terms, if `forward` returns a dict
    needs_teacher: bool = True
    teacher_is_same_model: bool = False  # the teacher must be a trained copy of the student's model
    teacher_learns: bool = False  # the teacher starts from scratch and is trained with the student
    needs_input_gradients: bool = False  # differentiates networks w.r.t. images or features
    needs_networks: bool = False  # runs the networks, or parts of them, on other inputs
    cuts: tuple[str, ...] = ()  # stages after which it runs both networks' layers (`Networks`)
    needs_labels: bool = False  # needs one label per image, which mixed images do not have
    ignores_temperature: bool = False  # z / T for z gives the same value, or that value over T^2
    needs_distinct_images: bool = False  # needs each image at most once in a batch
    extra_student_images: float = 0.0  # images that it runs the student on, per image of the batch
    # `forward` is a mean of one contribution per image, each independent of the other images. With
    # several GPUs, each then computes the loss of its own images; all other losses get the gathered
    # outputs of the whole batch.
    is_mean_over_images: bool = False
    cuda_graph_safe: bool = True  # never synchronizes with the device, so it can be captured
    revision: int = 1  # increment whenever the computed values change

    forward: Callable[..., LossValue]  # the arguments depend on the capabilities above

    def __init__(self, context: LossContext):
        super().__init__()

    def __init_subclass__(cls) -> None:
        """Refuse attribute names of version 0.1: ignoring them would silently change results.

        Raises:
            UserError: the subclass defines one; the message has the new name.
        """
        super().__init_subclass__()
        for old, new in _RENAMED.items():
            require(old not in vars(cls), f"{cls.__name__}.{old} is now called {new}")

    @property
    def compares_logits_alone(self) -> bool:
        """Whether it reads nothing but the logits of the student and of a frozen teacher."""
        reads_more = self.stages or self.student_stages or self.needs_networks
        reads_more = reads_more or self.needs_input_gradients
        has_views = type(self).extra_views is not Loss.extra_views
        return self.needs_teacher and not (reads_more or has_views or self.teacher_learns)

    def extra_views(self, image: Tensor) -> dict[str, Tensor]:
        """Further views [B', 3, H, W] of a batch's images for both networks, by name.

        They share a forward pass with the images; `Output.views` has their outputs.
        """
        return {}

    def teacher_index(self, index: Tensor) -> Tensor:
        """The training images that the teacher sees instead of the batch's: [B] -> [B] int64.

        Each is augmented as in that epoch. All losses of the method get the resulting outputs.
        """
        return index

    def prepare(self, outputs: Iterable[tuple[Output, Tensor]]) -> None:
        """Called once before training, if a subclass defines it: for statistics of the teacher.

        Store results in buffers, which are checkpointed. The teacher must be frozen.

        Args:
            outputs: the teacher's outputs for all training images, without augmentation, in order,
                batch by batch, with their labels [B]; can be iterated once.
        """

    def on_epoch_start(self, phase: str) -> None:
        """Called before every epoch, with the networks in train mode.

        Args:
            phase: "init" in the optional first phase, which has its own weights, else "main".
        """


class PerImageLoss(Loss):
    """A loss that is the mean of one number per image, so that images can be weighted from outside.

    A subclass defines `per_image` instead of `forward`.
    """

    def per_image(self, student: Output, teacher: Output, batch: Batch) -> LossValue:
        """The unweighted loss of each image, [B], or a dict of its unweighted terms, each [B]."""
        raise NotImplementedError

    def forward(self, student: Output, teacher: Output, batch: Batch) -> LossValue:
        """The mean over the images of a batch."""
        value = self.per_image(student, teacher, batch)
        if isinstance(value, Tensor):
            return value.mean()
        return {name: term.mean() for name, term in value.items()}

    def weighted(self, student: Output, teacher: Output, batch: Batch, weight: Tensor) -> LossValue:
        """The mean over the images of a batch of each image's loss times its weight [B]."""
        value = self.per_image(student, teacher, batch)
        if isinstance(value, Tensor):
            return (weight * value).mean()
        return {name: (weight * term).mean() for name, term in value.items()}


class Head(nn.Module):
    """Replaces the classifier of a method's students, in training and at inference.

    It is part of the student: of its weights, parameter count, accuracy and exported files. A
    subclass takes `context` first, with the shapes of the student's unmodified model, and its
    hyperparameters by name. Its stages replace the student's stages of the same names.

    `forward` takes the student's features at the stage `reads`, and returns logits [B, K].
    """

    reads: str  # a stage of the student
    stages: Mapping[str, str] = {}  # stage -> path of a module in the head, as for a model
    revision: int = 1  # increment whenever the computed values change

    forward: Callable[[Tensor], Tensor]

    def __init__(self, context: LossContext):
        super().__init__()


@dataclass
class LogitPair:
    """The logits of student and teacher that a loss compares if a method has plug-ins."""

    student: Tensor  # [B, K]
    teacher: Tensor  # [B, K]
    weight: float | Tensor = 1.0  # of the loss (number or []), or of each image ([B])


class LogitPlugin(nn.Module):
    """A part of a method that changes the logits compared by its losses, for any logit loss.

    A subclass takes `context` first and its hyperparameters by name, as a `Loss` does. Its
    parameters are trained together with the student, and its buffers are checkpointed. Plug-ins
    act in the order in which they are listed, on losses that read only the logits of both networks
    (`Loss.compares_logits_alone`). Cross entropy and feature losses are unaffected.

    `forward(pair, batch)` takes a `LogitPair` and returns one or several; the losses are summed
    over all of them.
    """

    needs_labels: bool = False  # needs one label per image, which mixed images do not have
    weights_images: bool = False  # its weights are [B], so it needs losses that are `PerImageLoss`
    is_temperature: bool = False  # z / T for z, T^2 times the loss (`Loss.ignores_temperature`)
    cuda_graph_safe: bool = True  # never synchronizes with the device, so it can be captured
    revision: int = 1  # increment whenever the computed values change

    forward: Callable[[LogitPair, Batch], LogitPair | Sequence[LogitPair]]

    def __init__(self, context: LossContext):
        super().__init__()

    def on_epoch_start(self, phase: str) -> None:
        """Called before every epoch, with the networks in train mode, as `Loss.on_epoch_start`."""


Tensors: TypeAlias = list[Tensor]  # one per parameter


class GradientRule:
    """Combines the gradients of a method's terms into the one gradient that SGD follows.

    It gets the gradient of the weighted sum of all terms, and of the `parts` that it declares. It
    applies to the student's parameters for which every part has a gradient; all others, such as
    the method's own parameters, use the gradient of the sum.

    A subclass takes first `terms`, the names of the method's terms, of which the first is "ce", and
    `momentum`, the recipe's, then its hyperparameters by name.
    """

    parts: Sequence[Sequence[str]] = ()  # the terms of each part whose gradient it needs
    buffers: int = 0  # number of buffers per parameter, each of its shape and initially zero
    revision: int = 1  # increment whenever the computed values change

    def __init__(self, terms: Sequence[str], momentum: float):
        pass

    def combine(
        self, total: Tensors, parts: list[Tensors], momentum: Tensors, buffers: list[Tensors]
    ) -> None:
        """Change the gradients `total` in place, without synchronizing with the device.

        Args:
            total: gradients of the weighted sum of all terms.
            parts: gradients of the weighted sum of the terms of each part.
            momentum: SGD's momentum buffers before this step; must not be changed.
            buffers: the rule's own buffers, kept across steps and checkpointed.
        """
        raise NotImplementedError
