"""How a job's steps are executed: what speed, precision and compile mean to PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kd_bench.config.schema import Config, Precision, Speed
from kd_bench.data.dataset import Data
from kd_bench.interfaces import Output
from kd_bench.methods.common.method import Method
from kd_bench.models.convolutions import SubsampledConv2d
from kd_bench.models.features import FeatureExtractor
from kd_bench.models.frozen import FusedNetwork, can_fuse_on, fold_batchnorm
from kd_bench.training.device import tf32_switches
from kd_bench.utils.errors import require


@dataclass(frozen=True)
class Execution:
    """How steps are executed; all of it follows from the configuration and the kind of device."""

    speed: Speed = Speed.repro
    precision: Precision = Precision.fp32
    teacher_precision: Precision = Precision.fp32
    compiled: bool = False  # networks by torch.compile
    captured: bool = False  # the whole step as a CUDA graph
    notes: tuple[str, ...] = ()  # why something differs from what was asked for

    @property
    def layout(self) -> torch.memory_format:
        """The memory format of networks and images."""
        return memory_format(self.speed)

    def as_record(self) -> dict[str, Any]:
        """Plain values for the job's record."""
        return {
            "precision": self.precision.value,
            "teacher_precision": self.teacher_precision.value,
            "compiled": self.compiled,
            "captured": self.captured,
            "notes": list(self.notes),
        }


def memory_format(speed: Speed) -> torch.memory_format:
    """The memory format of networks and images: the only place that decides it."""
    return torch.contiguous_format if speed is Speed.reference else torch.channels_last


def check_execution(config: Config) -> None:
    """Refuse contradictions: `speed=reference` is eager and in single precision.

    Raises:
        UserError: naming what to leave out.
    """
    is_changed = {
        "compile": config.compile,
        "precision": config.precision is not Precision.fp32,
        "teacher.precision": config.teacher.precision is not None,
    }
    odd = [name for name, changed in is_changed.items() if changed]
    require(
        config.speed is not Speed.reference or not odd,
        f"speed=reference is eager and fp32: leave out {', '.join(odd)}, or use speed=repro",
    )


def resolve_execution(
    config: Config, method: Method, device: torch.device, nets: Iterable[nn.Module]
) -> Execution:
    """How a job is executed; what its method and networks cannot have is left out, and noted."""
    precision = config.precision
    teacher_precision = config.teacher.precision or precision
    needs_gradients = method.needs_input_gradients
    can_capture = device.type == "cuda" and config.speed is not Speed.reference
    is_shared = config.gpus_per_job > 1
    notes = []
    if is_shared:
        notes.append(f"{config.gpus_per_job} processes, each with batch norm of its own images")
    if is_shared and can_capture:
        notes.append("not captured: processes wait for each other in every step")
    if is_shared and config.compile:
        notes.append("not compiled: processes share each batch")
    if needs_gradients and Precision.bf16 in (precision, teacher_precision):
        # Losses get features cast to fp32: copies, which the logits do not depend on.
        notes.append("not in bf16: a loss differentiates logits with respect to features")
        precision, teacher_precision = (
            Precision.fp32 if each is Precision.bf16 else each
            for each in (precision, teacher_precision)
        )
    if config.compile and config.method.rule:
        notes.append("not compiled: a rule goes back through the student for each part of the loss")
    if config.compile and needs_gradients:
        notes.append("not compiled: a loss differentiates gradients, which torch.compile cannot")
    if can_capture and not method.cuda_graph_safe:
        notes.append("not captured: a loss waits for the device")
    if any(isinstance(module, SubsampledConv2d) for net in nets for module in net.modules()):
        notes.append("strided 1x1 convolutions of few channels as subsampling and stride 1")
    return Execution(
        speed=config.speed,
        precision=precision,
        teacher_precision=teacher_precision,
        compiled=config.compile and not (needs_gradients or config.method.rule or is_shared),
        captured=can_capture and method.cuda_graph_safe and not is_shared,
        notes=tuple(notes),
    )


def uncompiled(execution: Execution) -> Execution:
    """The same without torch.compile."""
    return replace(execution, compiled=False)


def build_forward(
    net: FeatureExtractor, execution: Execution, precision: Precision, *, fixed: bool = False
) -> Callable[[Tensor], Output]:
    """The forward pass of a network as steps run it; its outputs are always single precision.

    Args:
        net: eager and in single precision.
        execution: gives the memory format, and whether to compile.
        precision: of the computation; `tf32` allows TF32.
        fixed: the network is frozen, in eval mode and never differentiated. Where no stages are
            read, it is then rewritten (`kd_bench.models.frozen`).
    """
    run: Callable[[Tensor], Output] = net
    if fixed and not net.stages:
        run = _rewritten(net, execution, precision)
    if execution.compiled:
        # Frozen weights are laid out for a CPU's convolutions once instead of at every step.
        is_on_cpu = next(net.parameters()).device.type == "cpu"
        options: dict[str, Any] | None = {"freezing": True} if fixed and is_on_cpu else None
        # One shape, one graph: a break in it would be a step that cannot be captured.
        run = torch.compile(run, fullgraph=True, dynamic=False, options=options)
    return _Autocast(run) if precision is Precision.bf16 else run


class _Autocast:
    """A forward pass whose convolutions and matrix products are computed in bfloat16."""

    def __init__(self, forward: Callable[[Tensor], Output]):
        self.forward = forward

    def __call__(self, image: Tensor) -> Output:
        # Without its cache, which would keep casts of weights across captured steps.
        with torch.autocast(image.device.type, torch.bfloat16, cache_enabled=False):
            out = self.forward(image)
        features = {stage: feature.float() for stage, feature in out.features.items()}
        return Output(out.logits.float(), features)


class _LogitsOnly(nn.Module):
    """A rewritten network of which no stages are read."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Output:
        """Logits [B, K] of images [B, 3, H, W]."""
        return Output(self.net(image))


def move(net: nn.Module, device: torch.device, layout: torch.memory_format) -> None:
    """Move a network to a device, its convolutions' weights in this memory format."""
    net.to(device, memory_format=layout)  # type: ignore[call-overload]  # missing in torch's stubs


def _rewritten(net: FeatureExtractor, execution: Execution, precision: Precision) -> nn.Module:
    """A frozen network that computes the same logits faster, or itself if it cannot be traced."""
    folded = fold_batchnorm(net.net)
    if folded is None:
        return net
    device = next(net.parameters()).device
    move(folded, device, execution.layout)
    is_single = precision is not Precision.bf16
    if can_fuse_on(device) and is_single and not execution.compiled:  # the compiler fuses, too
        return _LogitsOnly(FusedNetwork(folded))
    return _LogitsOnly(folded)


def inference_batch_size(data: Data) -> int:
    """The batch size for forward passes alone: what a CPU's cache holds, more on a GPU.

    On a CPU, ResNet-20 takes twice as long per 32x32 image in a batch of 1280 as in one of 64.
    """
    height, width = data.image_size
    pixels = 2**21 if data.train.target.device.type == "cuda" else 2**16
    return max(16, pixels // (height * width))


def configure_torch(execution: Execution) -> None:
    """Set what this execution needs of PyTorch, beyond `device.configure_process`."""
    if execution.compiled:
        torch.use_deterministic_algorithms(True, warn_only=True)  # the compiler reads this
        _forget_other_networks()


def _forget_other_networks() -> None:
    """Make the compiler forget the networks of an earlier job in this process.

    It caches by the code that ran, here `FeatureExtractor.forward`, for all networks; and unless
    told otherwise it takes two networks for the same if only one of them has hooks.
    """
    import torch._dynamo

    torch._dynamo.reset()
    torch._dynamo.config.skip_nnmodule_hook_guards = False


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether a GPU may round the factors of convolutions and matrix products to TF32."""
    switches = tf32_switches()
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = allowed
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value
