"""Everything that a job trains with, and the phases of its training."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from kd_bench.config.schema import InitConfig, RecipeConfig, init_epochs
from kd_bench.data.augment import occurrences
from kd_bench.data.dataset import Data
from kd_bench.interfaces import GradientRule
from kd_bench.methods.common.method import Method
from kd_bench.models.features import FeatureExtractor
from kd_bench.training.distributed.ranks import Ranks
from kd_bench.training.execution import Execution
from kd_bench.training.optimization.schedule import learning_rates
from kd_bench.training.teachers.teacher import Teacher
from kd_bench.utils.seeds import derive_seed


@dataclass
class TrainingSetup:
    """Everything that a job trains with."""

    job: str  # its unique name
    student: FeatureExtractor
    teacher: Teacher | None
    method: Method
    data: Data
    recipe: RecipeConfig
    init: InitConfig
    seed: int
    execution: Execution
    rule: GradientRule | None = None  # how the gradients of the main phase's terms are combined
    ranks: Ranks = field(default_factory=Ranks)  # the processes that train it

    @property
    def learners(self) -> dict[str, nn.Module]:
        """All modules that are trained, by name."""
        peer = {"teacher": self.teacher.network} if self.teacher and self.teacher.learns else {}
        return {"student": self.student, "method": self.method} | peer

    @property
    def device(self) -> torch.device:
        """The device that the job trains on."""
        return self.data.train.target.device

    @property
    def step_sizes(self) -> list[int]:
        """Images in each step of an epoch, over all processes; the last step may be smaller.

        All processes get equal shares of a step, so the last step drops the indivisible rest.
        """
        full, rest = divmod(self.data.train_size, self.recipe.batch_size)
        rest -= rest % self.ranks.size
        is_kept = rest > 0 and not self.recipe.drop_last
        return [self.recipe.batch_size] * full + [rest] * is_kept

    def order(self, phase: str, epoch: int) -> Tensor:
        """The occurrences of images in an epoch [N], on the CPU, from seed, phase and epoch alone.

        Without repeated augmentation, these are shuffled image indices.
        """
        generator = torch.Generator().manual_seed(derive_seed(self.seed, phase, "order", epoch))
        order = torch.randperm(self.data.train_size, generator=generator)
        return occurrences(order, self.recipe.repeated_augmentation, self.step_sizes)


@dataclass(frozen=True)
class Phase:
    """A training phase: its name ("init" or "main"), length, and learning rate of every step."""

    name: str
    epochs: int
    rates: Tensor  # [epochs, steps] float64


def phases(setup: TrainingSetup) -> list[Phase]:
    """The phases of a job's training, in order."""
    steps = len(setup.step_sizes)
    rates = learning_rates(setup.recipe, steps).view(setup.recipe.epochs, steps)
    main = Phase("main", setup.recipe.epochs, rates)
    if not setup.init.epochs:
        return [main]
    epochs = init_epochs(setup.init.epochs, setup.recipe.epochs)
    constant = torch.full((epochs, steps), setup.init.lr * setup.recipe.lr, dtype=torch.float64)
    return [Phase("init", epochs, constant), main]
