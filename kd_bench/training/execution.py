"""How a job's steps are executed: what speed, precision and compile mean to PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kd_bench.config.schema import Precision, Speed
from kd_bench.interfaces import Output
from kd_bench.models.features import FeatureExtractor
from kd_bench.utils.errors import require

if TYPE_CHECKING:
    from kd_bench.data.dataset import Data
    from kd_bench.methods.common.method import Method


@dataclass(frozen=True)
class Execution:
    """How steps are executed. All of it follows from the configuration and the kind of device;
    with speed=fast, what is compiled and autotuned is chosen by measuring."""

    speed: Speed = Speed.repro
    precision: Precision = Precision.fp32
    teacher_precision: Precision = Precision.fp32
    compiled: bool = False  # networks by torch.compile
    captured: bool = False  # the whole step as a CUDA graph
    autotuned: bool = False  # cuDNN chooses its algorithms by measuring
    notes: tuple[str, ...] = ()  # why something is otherwise than one might expect

    @property
    def layout(self) -> torch.memory_format:
        """How networks and images lie in memory."""
        return memory_format(self.speed)

    def as_record(self) -> dict[str, Any]:
        """What a record tells of it."""
        return {
            "precision": self.precision.value,
            "teacher_precision": self.teacher_precision.value,
            "compiled": self.compiled,
            "captured": self.captured,
            "autotuned": self.autotuned,
            "notes": list(self.notes),
        }


def memory_format(speed: Speed) -> torch.memory_format:
    """How networks and images lie in memory."""
    return torch.contiguous_format if speed is Speed.reference else torch.channels_last


def check_execution(config: Mapping[str, Any]) -> None:
    """Refuse what contradicts itself: `reference` is eager and in single precision.

    Raises:
        UserError: naming what to leave out.
    """
    plain = {"compile": False, "precision": "fp32", "teacher.precision": None}
    given = {**config, "teacher.precision": config["teacher"]["precision"]}
    odd = [name for name, value in plain.items() if given[name] != value]
    require(
        config["speed"] != Speed.reference.value or not odd,
        f"speed=reference is eager and fp32: leave out {', '.join(odd)}, or take speed=repro",
    )


def resolve_execution(config: Mapping[str, Any], method: Method, device: torch.device) -> Execution:
    """How a job is executed; what a method cannot have is left out, and noted."""
    speed, precision = Speed(config["speed"]), Precision(config["precision"])
    chosen = {"compiled": config["compile"], "autotuned": False}
    if speed is Speed.fast:  # no other may depend on what is no part of its identity
        chosen |= config["chosen"]
    can_capture = device.type == "cuda" and speed is not Speed.reference
    teacher_precision = Precision(config["teacher"]["precision"] or precision)
    notes = []
    if method.needs_input_gradients and Precision.bf16 in (precision, teacher_precision):
        # Features are given to losses in fp32: copies, of which the logits are no function.
        notes.append("not in bf16: a loss differentiates logits with respect to features")
        precision, teacher_precision = (
            Precision.fp32 if each is Precision.bf16 else each
            for each in (precision, teacher_precision)
        )
    if chosen["compiled"] and method.needs_input_gradients:
        notes.append("not compiled: a loss differentiates gradients, which torch.compile cannot")
    if can_capture and not method.cuda_graph_safe:
        notes.append("not captured: a loss waits for the device")
    return Execution(
        speed,
        precision,
        teacher_precision,
        chosen["compiled"] and not method.needs_input_gradients,
        can_capture and method.cuda_graph_safe,
        chosen["autotuned"],
        tuple(notes),
    )


def uncompiled(how: Execution) -> Execution:
    """The same without torch.compile."""
    return replace(how, compiled=False)


def build_forward(
    net: FeatureExtractor, how: Execution, precision: Precision, *, fixed: bool = False
) -> Callable[[Tensor], Output]:
    """A network as steps run it. Its outputs are single precision, whatever it computes in.

    Args:
        net: eager and in single precision.
        how: of it, the layout and whether it is compiled.
        precision: what it computes in; TF32 is up to `tf32`.
        fixed: it stays as it is, in eval mode, and nobody differentiates it. So, where no stages are
            inside, batch norm becomes part of the convolutions before it, where they can be told.
    """
    run = fold_batchnorm(net, how.layout) if fixed and not net.stages else net
    if how.compiled:
        # Weights that stay are laid out for a CPU's convolutions once instead of at every step.
        is_on_cpu = next(net.parameters()).device.type == "cpu"
        options = {"freezing": True} if fixed and is_on_cpu else None
        # One shape, one graph: a break in it would be a step that cannot be captured.
        run = torch.compile(run, fullgraph=True, dynamic=False, options=options)
    return _Autocast(run) if precision is Precision.bf16 else run


class _Autocast:
    """A network whose convolutions and products are computed in bfloat16."""

    def __init__(self, net: Callable[[Tensor], Output]):
        self.net = net

    def __call__(self, image: Tensor) -> Output:
        # Without its cache, which would keep casts of weights across steps that are captured.
        with torch.autocast(image.device.type, torch.bfloat16, cache_enabled=False):
            said = self.net(image)
        features = {stage: feature.float() for stage, feature in said.features.items()}
        return Output(said.logits.float(), features)


class _Folded(nn.Module):
    """A network without stages, rewritten."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Output:
        return Output(self.net(image))


def fold_batchnorm(net: FeatureExtractor, layout: torch.memory_format) -> nn.Module:
    """A copy of a network in eval mode with batch norm folded; `net` itself where it has no graph.

    Logits change by rounding alone.
    """
    from torch.fx.experimental.optimization import fuse

    try:
        rewritten = fuse(net.net)  # a copy
    except Exception:  # traced on stand-ins for tensors, a network's own code may raise anything
        return net
    return _Folded(rewritten).to(memory_format=layout).eval().requires_grad_(False)


def forward_batch(data: Data) -> int:
    """Images to a batch where none learns: on a CPU as many as its cache holds, a GPU likes more.

    ResNet-20 takes twice as long for an image of 32x32 in a batch of 1280 as in one of 64.
    """
    height, width = data.image_size
    pixels = 2**21 if data.train.target.device.type == "cuda" else 2**16
    return max(16, pixels // (height * width))


def configure_torch(how: Execution) -> None:
    """Settings of the process, beyond those of every job, before its first step."""
    torch.backends.cudnn.benchmark = how.autotuned
    if how.speed is Speed.fast:
        torch.set_deterministic_debug_mode("default")
    elif how.compiled:
        torch.use_deterministic_algorithms(True, warn_only=True)  # tells the compiler, too
    if how.compiled:
        _forget_other_networks()


def _forget_other_networks() -> None:
    """Have what is compiled belong to the networks of one job, and to their stages.

    The compiler keeps what it made by the code that ran, here that of `FeatureExtractor`, for all networks;
    and unless told so it takes two for the same where one has hooks and the other none.
    """
    import torch._dynamo

    torch._dynamo.reset()
    torch._dynamo.config.skip_nnmodule_hook_guards = False


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether a GPU may round the factors of convolutions and matrix products to TF32."""
    switches = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = allowed
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value
