"""The schema of a job's configuration: names, types and defaults, without Hydra or torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

MISSING: Any = "???"  # OmegaConf's marker for a required value


class Padding(Enum):
    """Padding of an image before it is cropped."""

    zero = "zero"
    reflect = "reflect"


class Schedule(Enum):
    """The learning rate schedule."""

    constant = "constant"
    step = "step"
    cosine = "cosine"
    onecycle = "onecycle"


class OptimizerName(Enum):
    """The optimizer."""

    sgd = "sgd"
    adamw = "adamw"
    lamb = "lamb"


class LabelLossName(Enum):
    """The loss on the labels."""

    ce = "ce"  # cross entropy
    bce = "bce"  # binary cross entropy of each class


class ErasingMode(Enum):
    """What replaces the erased pixels of a normalised image."""

    const = "const"  # 0, the mean of the training images
    pixel = "pixel"  # a standard normal number for each pixel and channel


class Speed(Enum):
    """The implementation of a training step; part of a job's identity."""

    reference = "reference"  # eager mode, contiguous tensors: the ground truth for comparisons
    repro = "repro"  # fast and reproducible: the configuration determines every bit


class Precision(Enum):
    """The precision of the networks; weights and losses are always in single precision."""

    fp32 = "fp32"
    tf32 = "tf32"  # GPUs round inputs of convolutions and matmuls to 10 bits; CPUs use fp32
    bf16 = "bf16"  # autocast to bfloat16


class Device(Enum):
    """The device of a job; auto selects the GPU if there is one."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class TeacherSource(Enum):
    """The source of the teacher's outputs."""

    online = "online"  # a forward pass for every batch
    table = "table"  # a cache of its outputs for every view of every image, filled once


class Mean(Enum):
    """What an ensemble averages; its output is the mean as logits."""

    probabilities = "probabilities"
    logits = "logits"


class Role(Enum):
    """The kind of a method's rows in a table."""

    method = "method"
    label_free = "label_free"  # a method that learns from the teacher alone
    control = "control"  # not a method, but a baseline that methods have to beat


class Side(Enum):
    """One of the two ends of a chain."""

    teacher = "teacher"
    student = "student"


@dataclass
class ResizedCropConfig:
    """A crop of random area and aspect ratio, resized to a square; a center crop in evaluation."""

    size: int | None = None  # height and width of the network input; None: padding and crop instead
    resize: int = 256  # shorter side of an image before the center crop
    area: list[float] = field(default_factory=lambda: [0.08, 1.0])  # fraction of the image's area
    ratio: list[float] = field(default_factory=lambda: [0.75, 4 / 3])  # width over height


@dataclass
class RandAugmentConfig:
    """RandAugment: random color and geometric operations after the crop and flip in training."""

    operations: int = 0  # number of operations per image, applied in turn; 0: none
    magnitude: int = 9  # of all operations, from 0 to 30


@dataclass
class DatasetConfig:
    """Images: their source, normalisation and augmentation."""

    name: str = MISSING
    root: str = "data"  # the folder with the files, for sources that read files
    download: bool = False  # download missing files
    source: dict[str, Any] = field(default_factory=dict)  # _target_ and its arguments
    mean: list[float] | None = None  # per channel, of pixels in [0, 1]; None: from the training set
    std: list[float] | None = None
    pad: int = 4  # pixels on each side before the crop
    padding: Padding = Padding.zero
    flip: bool = True
    resized_crop: ResizedCropConfig = field(default_factory=ResizedCropConfig)
    randaugment: RandAugmentConfig = field(default_factory=RandAugmentConfig)
    streamed: bool = False  # decode images during training; otherwise all are in memory
    workers: int | None = None  # processes that decode streamed images; None: one per core
    validation: int = 0  # images split from the training set, with a separate seed
    weights: dict[str, float] = field(default_factory=dict)  # loss weights tuned for these images


@dataclass
class ModelConfig:
    """A network's constructor, the paths of its stages, and the images that it expects."""

    name: str = MISSING
    net: dict[str, Any] = field(default_factory=dict)  # _target_ and its arguments
    # Stage -> module path; empty or null: use the attribute `stages` of the network.
    stages: dict[str, str] | None = field(default_factory=dict)
    weights: str | None = None  # pretrained weights to start from, for libraries that have them
    # Normalisation and input size; None: those of `weights`, or of the dataset without weights.
    mean: list[float] | None = None  # per channel, of pixels in [0, 1]
    std: list[float] | None = None
    input_size: list[int] | None = None  # height and width in pixels


@dataclass
class ErasingConfig:
    """Random erasing of a rectangle of each training image, with timm's ranges.

    The paper (arXiv:1708.04896) has areas up to 0.4, and draws the ratio, not its logarithm.
    """

    probability: float = 0.0  # that an image is erased
    mode: ErasingMode = ErasingMode.pixel
    area: list[float] = field(default_factory=lambda: [0.02, 1 / 3])  # fraction of the image's
    ratio: list[float] = field(default_factory=lambda: [0.3, 1 / 0.3])  # height over width


@dataclass
class RecipeConfig:
    """How a network is trained: optimizer, schedule and regularization."""

    name: str = MISSING
    epochs: int = MISSING
    batch_size: int = MISSING
    lr: float = MISSING
    optimizer: OptimizerName = OptimizerName.sgd
    momentum: float = 0.9  # for adamw and lamb: their beta1
    nesterov: bool = False
    weight_decay: float = 0.0
    decay_vectors: bool = True  # False: no weight decay on biases, norms and other vectors
    schedule: Schedule = Schedule.step
    milestones: list[float] = field(default_factory=list)  # fractions of the epochs, in (0, 1)
    gamma: float = 0.1  # factor at each milestone
    warmup: float = 0.0  # onecycle: fraction of the epochs in which the learning rate rises
    linear_warmup: float = 0.0  # other schedules: fraction of the epochs of linear warmup
    min_lr: float = 0.0  # cosine: final learning rate
    accumulate: int = 1  # batches per update, which uses the mean of their gradients
    label_loss: LabelLossName = LabelLossName.ce
    label_smoothing: float = 0.0  # part of a label that is spread evenly over all classes
    target_threshold: float | None = None  # bce: class probabilities above it become 1, others 0
    # The parameter a of Beta(a, a), from which the mixing ratio of images is drawn; 0: not mixed.
    mixup: float = 0.0  # blends two images
    cutmix: float = 0.0  # pastes a box of another image
    erasing: ErasingConfig = field(default_factory=ErasingConfig)  # before images are mixed
    repeated_augmentation: int = 1  # views of an image per epoch; more views, fewer images
    ema: float = 0.0  # decay of the moving average of the student's weights; 0: none
    drop_last: bool = False  # drop the last batch of an epoch if it is smaller


@dataclass
class InitConfig:
    """The init phase: training before the main phase, for methods that have one."""

    epochs: float = 0.0  # fraction of the recipe's epochs; if above 0, at least one epoch
    lr: float = 1.0  # constant learning rate, as a factor of the recipe's `lr`
    weights: dict[str, Any] = field(default_factory=dict)  # like the method's, for this phase


def init_epochs(fraction: float, epochs: int) -> int:
    """Number of epochs of the init phase, given as a fraction of the recipe's `epochs`."""
    return max(1, round(fraction * epochs)) if fraction else 0


@dataclass
class EnsembleConfig:
    """Several teachers whose outputs are averaged."""

    size: int = 1  # number of teachers, with seeds teacher.seed, teacher.seed + 1, ...
    mean: Mean = Mean.probabilities


@dataclass
class MethodConfig:
    """A method: named losses, the weights of their terms, and the choice of teachers."""

    name: str = MISSING
    losses: dict[str, Any] = field(default_factory=dict)  # name -> _target_ and hyperparameters
    weights: dict[str, Any] = field(default_factory=dict)  # name -> number, or {entry: number}
    # name -> fraction of the recipe's epochs over which its weight rises linearly, from 0
    ramp_epochs: dict[str, Any] = field(default_factory=dict)
    init: InitConfig = field(default_factory=InitConfig)
    rule: dict[str, Any] = field(default_factory=dict)  # name -> _target_ ...; empty: plain sum
    head: dict[str, Any] = field(default_factory=dict)  # of the student: _target_ and its arguments
    plugins: dict[str, Any] = field(default_factory=dict)  # name -> _target_ ..., applied in order
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    chain: dict[str, Any] = field(default_factory=dict)  # name -> LinkConfig, starting at teacher
    # These two are not part of a job's identity.
    role: Role = Role.method  # in a table
    # knob -> {log_uniform: [low, high]}, {uniform: [low, high]} or {factor: number}
    search: dict[str, Any] = field(default_factory=dict)


@dataclass
class LinkConfig:
    """A job between teacher and student, taught by the previous job, and teacher of the next."""

    model: ModelConfig | None = None  # None: the student's
    recipe: Side = Side.teacher  # whose recipe it is trained with
    repeat: int = 1  # number of such jobs in a row
    method: MethodConfig = field(default_factory=MethodConfig)


@dataclass
class TeacherConfig:
    """The teacher: a `baseline` job with this model, recipe and seed, or a checkpoint."""

    model: ModelConfig = field(default_factory=ModelConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    seed: int = 0
    checkpoint: str | None = None  # a file with a state dict; None: train a teacher
    checkpoint_key: str | None = None  # its key in the file, such as model_ema; None: common keys
    expected_accuracy: float | None = None  # of the checkpoint, in percent; not part of identity
    source: TeacherSource = TeacherSource.online
    precision: Precision | None = None  # None: the student's


@dataclass
class Config:
    """One job, and how and where it runs."""

    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    assistant: ModelConfig = field(default_factory=ModelConfig)  # for methods that have one
    method: MethodConfig = field(default_factory=MethodConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    seed: int = 0
    speed: Speed = Speed.repro
    compile: bool = False  # torch.compile: up to a minute of compilation, then faster steps
    precision: Precision = Precision.fp32
    threads: int = 1  # of PyTorch; changes results bitwise, so there is no 'auto'
    # Processes that share each batch, one per GPU; on a CPU, each has `threads` cores.
    gpus_per_job: int = 1
    # The rest is not part of a job's identity.
    runs_dir: str = "runs"
    device: Device = Device.auto
    tensorboard: bool = True


BASELINE = "baseline"  # cross entropy alone; the method of every teacher


def baseline_method() -> MethodConfig:
    """The same as conf/method/baseline.yaml."""
    return MethodConfig(name=BASELINE, weights={"ce": 1.0})


def total_epochs(config: Config) -> int:
    """Number of epochs of a job in all phases."""
    return init_epochs(config.method.init.epochs, config.recipe.epochs) + config.recipe.epochs
