"""Shared parts of networks from other libraries: names, pretrained weights, and stages.

Stages are found by running the network once, without weights, with hooks on its modules.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn

from kd_bench.interfaces import UserError
from kd_bench.models.adapted_input import ExpectedImages
from kd_bench.models.features import INPUT, eval_mode, map_path
from kd_bench.models.wrapped import WrappedNetwork
from kd_bench.utils.errors import message_lines

POOLS = ("MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d", "AdaptiveMaxPool2d")


class PretrainedNetwork(WrappedNetwork):
    """A network of a library that provides pretrained weights."""

    @staticmethod
    @abstractmethod
    def expected_images(name: str, weights: str) -> ExpectedImages:
        """The input for which pretrained weights of the network `name` were trained.

        Raises:
            UserError: there is no such network, or it has no such weights.
        """

    @abstractmethod
    def load_pretrained(self, weights: str) -> None:
        """Load pretrained weights, including the classifier's if the number of classes matches.

        Raises:
            UserError: they cannot be downloaded.
        """


Stages = dict[str, str]  # stage -> path in the network


def found_once(
    find: Callable[[dict[str, Any], tuple[int, int]], Stages],
) -> Callable[[dict[str, Any], tuple[int, int]], Stages]:
    """Like `functools.cache`, for a network's arguments, which may include lists."""
    found: dict[str, Stages] = {}

    @wraps(find)
    def cached(arguments: dict[str, Any], image_size: tuple[int, int]) -> Stages:
        key = repr((sorted(arguments.items()), image_size))
        if key not in found:
            found[key] = find(arguments, image_size)
        return found[key]

    return cached


def unknown_name(library: str, name: str, known: Sequence[str]) -> UserError:
    """The error for a name that a library does not have, with the closest names."""
    close = get_close_matches(name, known, n=5, cutoff=0.5)
    choice = f"; the closest are {', '.join(close)}" if close else ""
    return UserError(f"unknown model '{name}' of {library}{choice}")


def not_downloaded(library: str, name: str, error: Exception) -> UserError:
    """The error for pretrained weights that could not be downloaded."""
    return UserError(
        f"cannot download the pretrained weights of {library}'s {name}"
        f" ({type(error).__name__}: {message_lines(error)[0]}); load them once with an internet"
        " connection, which puts them into the library's cache, or leave out model.weights"
    )


def without_in_place(net: nn.Module) -> nn.Module:
    """Disable in-place operation of all modules, since the input of any may be a stage."""
    for module in net.modules():
        if hasattr(module, "inplace"):
            setattr(module, "inplace", False)  # noqa: B010  # mypy infers a module
    return net


@dataclass(frozen=True)
class Call:
    """The last call of a module in a forward pass."""

    path: str
    module: nn.Module
    input: Tensor
    output: Tensor


def watch(net: nn.Module, image_size: tuple[int, int]) -> list[Call]:
    """The calls of a network's modules from tensor to tensor, in the order in which they return."""
    calls: dict[str, Call] = {}
    handles = [
        module.register_forward_hook(partial(_keep, calls, path))
        for path, module in net.named_modules()
        if path
    ]
    try:
        with eval_mode(net), torch.no_grad():
            logits = net(torch.zeros(2, 3, *image_size, device=next(net.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    assert isinstance(logits, Tensor)
    return list(calls.values())


def _keep(
    calls: dict[str, Call], path: str, module: nn.Module, inputs: tuple, output: object
) -> None:
    calls.pop(path, None)
    if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
        calls[path] = Call(path, module, inputs[0], output)


def found_stages(
    calls: Sequence[Call],
    ends: Sequence[tuple[str, int, int]],
    image_size: tuple[int, int],
    classifier: str | None,
) -> dict[str, str]:
    """Stages and their paths: stem, stage1, ..., pooled, and the maps before the last activation.

    The stem is the stage with maps of at least half the image's side. If all of many blocks have
    maps of the same side, as in a ViT, each is a stage `block1`, ..., and the last of each quarter
    is `stage1`, ..., `stage4`.

    Args:
        calls: of the network.
        ends: path of the module at the end of each stage, its reduction (pixels of the image per
            position), and its channels.
        image_size: height and width of the image in these calls.
        classifier: path of the last linear layer.
    """
    by_path = {call.path: call for call in calls}
    found = {}
    for path, reduction, channels in ends:
        if path in by_path and path not in found:
            suffix = _suffix(by_path[path].output, reduction, channels, image_size)
            if suffix is not None:
                found[path] = (reduction, suffix, _before_activation(by_path[path], calls))
    stages = {
        name: (path + found[path][1], found[path][2] + found[path][1])
        for name, path in _named([(path, found[path][0]) for path in found])
    }
    result = {name: after for name, (after, _) in stages.items()}
    if classifier in by_path and by_path[classifier].input.dim() == 2:
        result["pooled"] = classifier + INPUT
    return result | {f"{name}_pre": before for name, (_, before) in stages.items()}


def _suffix(
    output: Tensor, reduction: int, channels: int, image_size: tuple[int, int]
) -> str | None:
    """The suffix that makes a path read a map [C, H, W]; None if the output cannot be a map."""
    if output.dim() == 4:
        return "" if output.shape[1] == channels else map_path("")
    height, width = (-(-side // reduction) for side in image_size)
    is_tokens = output.dim() == 3 and output.shape[2] == channels
    return (
        map_path("", (height, width)) if is_tokens and height * width <= output.shape[1] else None
    )


def _before_activation(call: Call, calls: Sequence[Call]) -> str:
    """The path of the input of a stage's last activation; the stage's own path without one."""
    maker = next(each for each in calls if each.output is call.output)
    is_activation = ".activation" in type(maker.module).__module__  # of torch.nn.modules, of timm
    return maker.path + INPUT if is_activation else call.path


def _named(ends: Sequence[tuple[str, int]]) -> Iterator[tuple[str, str]]:
    """Names and paths of stages, from paths and reductions."""
    paths = [path for path, _ in ends]
    if len(ends) > 4 and len({reduction for _, reduction in ends}) == 1:
        for quarter in range(1, 5):
            yield f"stage{quarter}", paths[len(paths) * quarter // 4 - 1]
        yield from ((f"block{i}", path) for i, path in enumerate(paths, 1))
        return
    has_stem = bool(ends) and ends[0][1] <= 2
    for i, path in enumerate(paths, 0 if has_stem else 1):
        yield (f"stage{i}" if i else "stem"), path


def ends_of_sides(calls: Sequence[Call], image_size: tuple[int, int]) -> list[tuple[str, int, int]]:
    """The last module of each map size, as `ends` for `found_stages`.

    The output of pooling does not end a stage. Of several modules that return the same tensor, the
    outermost is used.

    Args:
        calls: of the network, for square images.
        image_size: of the calls.
    """
    ends: dict[int, tuple[str, int, int]] = {}
    pooled = [call.output for call in calls if type(call.module).__name__ in POOLS]
    for call in calls:
        shape = call.output.shape
        is_map = len(shape) == 4 and (shape[2] == shape[3] or shape[1] == shape[2])
        is_outer = call.path.count(".") < 2  # inside blocks, branches have maps of either size
        if is_map and is_outer and not any(call.output is each for each in pooled):
            side, channels = (shape[2], shape[1]) if shape[2] == shape[3] else (shape[1], shape[3])
            if side > 1:
                ends[side] = (call.path, image_size[0] // side, channels)
    return sorted(ends.values(), key=lambda end: end[1])
