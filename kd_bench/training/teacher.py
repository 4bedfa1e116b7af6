"""The teacher: frozen, in eval mode, and run without gradients, unless a method needs otherwise."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping, Set
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kd_bench.config.schema import Precision, Speed
from kd_bench.data.dataset import Data
from kd_bench.interfaces import Batch, Output
from kd_bench.models.features import FeatureExtractor, forward_with_views
from kd_bench.training import execution
from kd_bench.training.execution import Execution
from kd_bench.utils.errors import UserError
from kd_bench.utils.text.output import print_lines

# Of all names in the checkpoints of DataParallel, Lightning and torch.compile.
PREFIXES = ("module.", "model.", "_orig_mod.")


class Teacher:
    """The teacher network, frozen here once and for all unless the method trains it.

    After a job, a frozen teacher's parameters and batch-norm statistics are bitwise unchanged: its
    parameters require no gradients, and it never leaves eval mode.

    Args:
        network: the network.
        learns: it is trained with the student (deep mutual learning), so it is not frozen.
        needs_input_gradients: losses differentiate its outputs with respect to images or features.
    """

    def __init__(
        self,
        network: FeatureExtractor,
        *,
        learns: bool = False,
        needs_input_gradients: bool = False,
    ):
        self.network, self.learns = network, learns
        self.record_fields: dict[str, Any] = {}  # added to the record of a job
        self._has_gradients = learns or needs_input_gradients
        self._run: Callable[[Tensor], Output] = network
        self._may_use_tf32 = False
        if not learns:
            network.eval().requires_grad_(False)

    def with_execution(self, settings: Execution) -> Teacher:
        """This teacher with other execution settings; without stages, its batch norm is folded."""
        teacher = copy.copy(self)
        fixed = not self._has_gradients and settings.speed is not Speed.reference
        precision = settings.precision if self.learns else settings.teacher_precision
        teacher._run = execution.build_forward(self.network, settings, precision, fixed=fixed)
        teacher._may_use_tf32 = precision is Precision.tf32
        return teacher

    def __call__(self, image: Tensor) -> Output:
        """Logits [B, K] and features of the teacher for images [B, 3, H, W]."""
        with torch.set_grad_enabled(self._has_gradients), execution.tf32(self._may_use_tf32):
            return self._run(image)

    def forward(self, batch: Batch, views: Mapping[str, Tensor]) -> Output:
        """Output of the teacher for a batch's images, and for further views of them."""
        return forward_with_views(self, batch.image, views)


@torch.no_grad()
def training_outputs(teacher: Teacher, data: Data) -> Iterator[tuple[Output, Tensor]]:
    """Outputs for all training images, without augmentation, part by part, and their labels [B]."""
    size = execution.inference_batch_size(data)
    targets = data.train.target.split(size)
    for image, target in zip(data.eval_batches(data.train, size), targets, strict=True):
        yield teacher(image), target


def load_weights(net: nn.Module, path: str | Path, model: str) -> None:
    """Load a state dict from a file into `net`, without executing code from the file.

    The file contains a state dict, or a dict with one under "state_dict" or "model".

    Raises:
        UserError: if the file does not exist, or its tensors do not match the network.
    """
    net.load_state_dict(read_weights(net, path, model))


def read_weights(net: nn.Module, path: str | Path, model: str) -> dict[str, Tensor]:
    """The state dict in a file, checked to be one of `net`, which may be on meta.

    A prefix that all names share and `net` does not have is taken off, and that is said.

    Raises:
        UserError: as `load_weights`.
    """
    state, prefix = _without_prefix(_read_state(path), net.state_dict().keys())
    if prefix:
        _say_once(f"{path}: took '{prefix}' off the names of all its tensors")
    _check_fits(net, state, path, model)
    return state


def _without_prefix(state: dict[str, Tensor], names: Set[str]) -> tuple[dict[str, Tensor], str]:
    """A state dict without prefixes that keep all its names from being `names`, and these."""
    taken = ""
    while state and not names & state.keys():
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in state)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        taken += prefix
    return state, taken


@cache
def _say_once(text: str) -> None:
    print_lines(f"kd-bench: {text}", file=sys.stderr)


def _read_state(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file, on the CPU."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read the checkpoint {path}: {error.strerror}") from None
    except Exception as error:  # torch.load raises anything from KeyError to UnpicklingError
        # PyTorch's own message recommends unsafe loading, which could execute code.
        raise UserError(f"{path} is no checkpoint of tensors alone") from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(map(torch.is_tensor, content.values())):
        raise UserError(
            f"{path} has no state dict (name -> tensor), not even under 'state_dict' or 'model'"
        )
    return content


def _check_fits(net: nn.Module, state: dict[str, Tensor], path: str | Path, model: str) -> None:
    """Check that a state dict has the names and shapes of the network."""
    expected = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    differing = [name for name in expected | found if expected.get(name) != found.get(name)]
    if differing:
        name = differing[0]
        raise UserError(
            f"the checkpoint {path} is not one of {model}: {len(differing)} of"
            f" {len(expected | found)} tensors differ; {name} is {found.get(name, 'missing')} in"
            f" the file and {expected.get(name, 'missing')} in the model"
        )
