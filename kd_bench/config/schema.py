"""What a job's configuration may hold: names, types and defaults, without Hydra or torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

MISSING = "???"  # OmegaConf's mark of a value that somebody must give


class Padding(Enum):
    """What surrounds an image before it is cropped."""

    zero = "zero"
    reflect = "reflect"


class Schedule(Enum):
    """How the learning rate runs over the epochs."""

    constant = "constant"
    step = "step"
    cosine = "cosine"
    onecycle = "onecycle"


class Speed(Enum):
    """Which of the step's implementations runs; part of a job's identity."""

    reference = "reference"  # eager, contiguous: the truth that the others are compared with
    repro = "repro"  # all that changes bits follows from the configuration


class Precision(Enum):
    """What networks compute in; weights and losses are single precision always."""

    fp32 = "fp32"
    tf32 = "tf32"  # GPUs round factors of convolutions and products to 10 bits; elsewhere fp32
    bf16 = "bf16"  # autocast to bfloat16


class Device(Enum):
    """Where a job runs: auto takes the GPU where there is one."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class TeacherSource(Enum):
    """Where the teacher's outputs come from."""

    online = "online"  # it looks at every batch
    table = "table"  # of what it says about every view of every image, made once for all jobs


@dataclass
class DatasetConfig:
    """Images and how they are seen: where they come from, normalisation, crop and flip."""

    name: str = MISSING
    root: str = "data"  # the folder with the files, for sources that have some
    download: bool = False  # fetch what is missing there
    source: dict[str, Any] = field(default_factory=dict)  # _target_ and its arguments
    mean: list[float] | None = None  # per channel, of pixels in [0, 1]; None: from the training set
    std: list[float] | None = None
    pad: int = 4  # pixels on each side before the crop
    padding: Padding = Padding.zero
    flip: bool = True
    validation: int = 0  # images taken from the training set, chosen by a seed of their own
    weights: dict[str, float] = field(default_factory=dict)  # method weights that suit these images


@dataclass
class ModelConfig:
    """A network by its constructor, and where its stages are."""

    name: str = MISSING
    net: dict[str, Any] = field(default_factory=dict)  # _target_ and its arguments
    # Stage -> module path; none, or null: the network's own table.
    stages: dict[str, str] | None = field(default_factory=dict)


@dataclass
class RecipeConfig:
    """How a network is trained: SGD and its schedule."""

    name: str = MISSING
    epochs: int = MISSING
    batch_size: int = MISSING
    lr: float = MISSING
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: Schedule = Schedule.step
    milestones: list[float] = field(default_factory=list)  # fractions of the epochs, in (0, 1)
    gamma: float = 0.1  # factor at each milestone
    warmup: float = 0.0  # onecycle: the fraction of the epochs in which the rate rises
    drop_last: bool = False  # leave out the last, smaller batch of an epoch


@dataclass
class InitConfig:
    """A stage of training before training, for methods that have one."""

    epochs: float = 0.0  # fraction of the recipe's epochs; above 0 it is one epoch at least
    lr: float = 1.0  # times the recipe's first learning rate, and constant
    weights: dict[str, Any] = field(default_factory=dict)  # as the method's, for this stage


def init_epochs(fraction: float, epochs: int) -> int:
    """Epochs of the training before the training: a fraction of the recipe's `epochs`."""
    return max(1, round(fraction * epochs)) if fraction else 0


@dataclass
class MethodConfig:
    """A method: named losses and the weights of their terms."""

    name: str = MISSING
    losses: dict[str, Any] = field(default_factory=dict)  # name -> _target_ and hyperparameters
    weights: dict[str, Any] = field(default_factory=dict)  # name -> number, or {entry: number}
    ramp_epochs: dict[str, Any] = field(default_factory=dict)  # weight rises linearly from 0
    init: InitConfig = field(default_factory=InitConfig)


@dataclass
class TeacherConfig:
    """The teacher, itself a job: `baseline` with this model, recipe and seed, or a checkpoint."""

    model: ModelConfig = field(default_factory=ModelConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    seed: int = 0
    checkpoint: str | None = None  # a file with a state dict, instead of training one
    source: TeacherSource = TeacherSource.online
    precision: Precision | None = None  # None: the student's


@dataclass
class Config:
    """One job, and where and how it runs."""

    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    seed: int = 0
    speed: Speed = Speed.repro
    compile: bool = False  # networks by torch.compile: a minute at first, then a faster step
    precision: Precision = Precision.fp32
    # What follows changes nothing that is learnt, and stays out of a job's identity.
    runs_dir: str = "runs"
    device: Device = Device.auto
    threads: int = 1  # of a job on a CPU; another number gives other bits, so it has no 'auto'
    tensorboard: bool = True


BASELINE = "baseline"  # the method of every teacher: cross entropy alone


def baseline_method() -> MethodConfig:
    """The same as conf/method/baseline.yaml."""
    return MethodConfig(name=BASELINE, weights={"ce": 1.0})


def total_epochs(config: Config) -> int:
    """Epochs of a job in all its phases."""
    return init_epochs(config.method.init.epochs, config.recipe.epochs) + config.recipe.epochs
