"""How a job's steps are executed: turns speed, precision and compile into PyTorch settings."""

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
    """How steps are executed; determined by the configuration and the type of device."""

    speed: Speed = Speed.repro
    precision: Precision = Precision.fp32
    teacher_precision: Precision = Precision.fp32
    compiled: bool = False  # networks are compiled by torch.compile
    captured: bool = False  # the whole step is captured as a CUDA graph
    notes: tuple[str, ...] = ()  # why the execution differs from the configuration

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
    """The memory format of networks and images, decided only here."""
    return torch.contiguous_format if speed is Speed.reference else torch.channels_last


def check_execution(config: Config) -> None:
    """Refuse contradictory options: `speed=reference` is eager and in single precision.

    Raises:
        UserError: lists the options to leave out.
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
    """Resolve how a job is executed.

    Options that its method or networks do not support are left out, with a note.
    """
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
        # Losses get features cast to fp32, which are copies that the logits do not depend on.
        notes.append("not in bf16: a loss differentiates logits with respect to features")
        precision, teacher_precision = (
            Precision.fp32 if each is Precision.bf16 else each
            for each in (precision, teacher_precision)
        )
    if config.compile and config.method.rule:
        notes.append("not compiled: a rule backpropagates each part of the loss separately")
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
    """The same execution without torch.compile."""
    return replace(execution, compiled=False)


def build_forward(
    net: FeatureExtractor, execution: Execution, precision: Precision, *, fixed: bool = False
) -> Callable[[Tensor], Output]:
    """The forward pass of a network as steps run it; its outputs are always single precision.

    Args:
        net: the network, eager and in single precision.
        execution: the source of the memory format and of whether to compile.
        precision: of the computation; `tf32` allows TF32.
        fixed: whether the network is frozen, in eval mode and never differentiated. If, in
            addition, no stages are read, it is rewritten (`kd_bench.models.frozen`).
    """
    run: Callable[[Tensor], Output] = net
    if fixed and not net.stages:
        run = _rewritten(net, execution, precision)
    if execution.compiled:
        # Frozen weights are laid out for a CPU's convolutions once instead of at every step.
        is_on_cpu = next(net.parameters()).device.type == "cpu"
        options: dict[str, Any] | None = {"freezing": True} if fixed and is_on_cpu else None
        # One static shape and one graph, since a step with a graph break cannot be captured.
        run = torch.compile(run, fullgraph=True, dynamic=False, options=options)
    return _Autocast(run) if precision is Precision.bf16 else run


class _Autocast:
    """A forward pass whose convolutions and matrix products are computed in bfloat16."""

    def __init__(self, forward: Callable[[Tensor], Output]):
        self.forward = forward

    def __call__(self, image: Tensor) -> Output:
        # Autocast's cache would keep casts of weights across captured steps.
        with torch.autocast(image.device.type, torch.bfloat16, cache_enabled=False):
            out = self.forward(image)
        features = {stage: feature.float() for stage, feature in out.features.items()}
        return Output(out.logits.float(), features)


class _LogitsOnly(nn.Module):
    """A rewritten network that outputs logits but no features."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Output:
        """Logits [B, K] of images [B, 3, H, W]."""
        return Output(self.net(image))


def move(net: nn.Module, device: torch.device, layout: torch.memory_format) -> None:
    """Move a network to a device, with convolution weights in this memory format."""
    net.to(device, memory_format=layout)  # type: ignore[call-overload]  # missing in torch's stubs


def _rewritten(net: FeatureExtractor, execution: Execution, precision: Precision) -> nn.Module:
    """A faster network with the same logits as a frozen `net`; `net` if it cannot be traced."""
    folded = fold_batchnorm(net.net)
    if folded is None:
        return net
    device = next(net.parameters()).device
    move(folded, device, execution.layout)
    is_single = precision is not Precision.bf16
    if can_fuse_on(device) and is_single and not execution.compiled:  # the compiler also fuses
        return _LogitsOnly(FusedNetwork(folded))
    return _LogitsOnly(folded)


def inference_batch_size(data: Data) -> int:
    """The batch size for inference: as much as fits into a CPU's cache, more on a GPU.

    On a CPU, ResNet-20 takes twice as long per 32x32 image with a batch size of 1280 as with 64.
    """
    height, width = data.image_size
    pixels = 2**21 if data.train.target.device.type == "cuda" else 2**16
    return max(16, pixels // (height * width))


def configure_torch(execution: Execution) -> None:
    """Apply PyTorch settings that this execution needs, beyond `device.configure_process`."""
    if execution.compiled:
        torch.use_deterministic_algorithms(True, warn_only=True)  # the compiler reads this
        _forget_other_networks()


def _forget_other_networks() -> None:
    """Clear what the compiler cached for the networks of an earlier job in this process.

    It caches by code object, here `FeatureExtractor.forward` for all networks, and by default does
    not distinguish two networks if only one of them has hooks.
    """
    import torch._dynamo

    torch._dynamo.reset()
    torch._dynamo.config.skip_nnmodule_hook_guards = False


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Set whether a GPU may round the inputs of convolutions and matrix products to TF32."""
    switches = tf32_switches()
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = allowed
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value
