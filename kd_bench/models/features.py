"""Feature extraction: reads named stages of a network without changing its code.

A stage is a name for a place in a network: `path` means the output of the module at that path,
`path:input` its first input. For a module called more than once in a forward pass, the last call
counts. A trailing `:map` permutes channels-last maps [B, H, W, C] to [B, C, H, W]; `:map=2x3`
reshapes tokens [B, N, C] of 2 rows of 3 patches to a map, dropping the class tokens in front.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils.hooks import RemovableHandle

from kd_bench.interfaces import Output, StageShapes, UserError, require
from kd_bench.models.cut import INPUT, MAP, rest_after, unrecorded_statistics
from kd_bench.utils import tracebacks
from kd_bench.utils.errors import message_lines


class FeatureExtractor(nn.Module):
    """A network that also returns the features at the requested stages.

    `forward(image)` returns an `Output` with exactly the features of `stages`. They are the
    network's own tensors, not copies, so later in-place operations would change them;
    `probe_shapes` rejects such stages. The hooks stay on `net`, so it should not be used on its own
    afterwards. Save the network's weights from `.net`.

    Raises:
        UserError: if a stage is not in `stage_paths`, or a path does not exist in `net`.
    """

    def __init__(
        self,
        net: nn.Module,
        stage_paths: Mapping[str, str],
        stages: Iterable[str],
        model_name: str,
    ):
        super().__init__()
        self.net = net
        self.stages = tuple(stages)
        self._paths, self._model = dict(stage_paths), model_name
        self._rests: dict[tuple[str, ...], GraphModule] = {}  # share the modules of `net`
        self._pooled = stage_paths.get("pooled", "")
        self._features: dict[str, Tensor] = {}  # of the current forward pass
        for stage in dict.fromkeys(self.stages):
            require(
                stage in stage_paths,
                f"unknown stage '{stage}' of {model_name}; choose from {', '.join(stage_paths)}",
            )
            _hook(net, stage, stage_paths[stage], self._features, model_name)

    def forward(self, image: Tensor) -> Output:
        logits = self.net(image)
        features = dict(self._features)
        self._features.clear()  # otherwise this step's graph would stay alive until the next step
        return Output(logits, features)

    @property
    def classifier(self) -> nn.Module | None:
        """The module whose input is the stage `pooled`; None if that is not a module's input."""
        path = self._pooled.removesuffix(INPUT)
        return None if path == self._pooled else self.net.get_submodule(path)

    def rest(self, start: str, feature: Tensor, then: Sequence[str] = ()) -> Output:
        """Logits and features of the stages `then`, from given features [B, C, ...] at `start`.

        Only later layers run, and batch norm's running statistics are not updated.

        Raises:
            UserError: the network cannot be cut there.
        """
        key = (start, *then)
        if key not in self._rests:
            self._rests[key] = rest_after(self.net, self._paths, start, then, self._model)
        with unrecorded_statistics(self.net):
            logits, features = self._rests[key](feature)
        self._features.clear()  # filled by the hooks
        return Output(logits, features)


@dataclass(frozen=True)
class _Place:
    """Where a stage is read, and how it is rearranged into a map."""

    module: str
    is_input: bool
    is_map: bool
    grid: tuple[int, int] | None  # rows and columns of patches, for tokens

    @classmethod
    def at(cls, path: str) -> _Place:
        """Parse the path of a stage."""
        place, is_map, end = path.partition(MAP)
        grid = re.fullmatch(r"=(\d+)x(\d+)", end)
        require(
            bool(grid or not end),
            f"'{path}' should end in {MAP} for maps [H, W, C], or in {MAP}=2x3 for tokens of 2 rows"
            " of 3 patches",
        )
        return cls(
            place.removesuffix(INPUT),
            place.endswith(INPUT),
            bool(is_map),
            (int(grid[1]), int(grid[2])) if grid else None,
        )

    def read(self, feature: object) -> object:
        """A feature [B, ...], rearranged into a map [B, C, H, W] if `is_map`.

        Raises:
            UserError: its shape does not allow this.
        """
        if not self.is_map or not isinstance(feature, Tensor):
            return feature
        if self.grid is None:
            shape = list(feature.shape[1:])
            require(len(shape) == 3, f"'{self.module}{MAP}' expects maps [H, W, C], got {shape}")
            return feature.permute(0, 3, 1, 2)
        rows, columns = self.grid
        require(
            feature.dim() == 3 and feature.shape[1] >= rows * columns,
            f"'{self.module}{MAP}={rows}x{columns}' expects tokens [N, C] of at least"
            f" {rows * columns} patches, got {list(feature.shape[1:])}",
        )
        return feature[:, -rows * columns :].mT.unflatten(2, self.grid)


def map_path(path: str, grid: tuple[int, int] | None = None) -> str:
    """The path of a stage as a map, made from channels-last maps, or from tokens on a grid."""
    return path + MAP + ("" if grid is None else f"={grid[0]}x{grid[1]}")


class _Declared(dict[str, Tensor]):
    """Features of the declared stages; reading any other raises an error with the remedy."""

    def __missing__(self, stage: str) -> Tensor:
        declared = ", ".join([*self, stage])
        raise UserError(
            f"forward reads stage '{stage}' without declaring it; declare stages: {declared}"
        )


def forward_with_views(
    net: Callable[[Tensor], Output], image: Tensor, views: Mapping[str, Tensor]
) -> Output:
    """Output of a network for images and further views of them, in a single forward pass.

    With a single pass, batch norm sees all of them together, as in the published methods.
    """
    parts = [image, *views.values()]
    whole = net(image if not views else torch.cat(parts))
    if not views:
        return Output(whole.logits, _Declared(whole.features))
    sizes = [len(part) for part in parts]
    features = {stage: feature.split(sizes) for stage, feature in whole.features.items()}
    first, *others = (
        Output(logits, _Declared({stage: split[i] for stage, split in features.items()}))
        for i, logits in enumerate(whole.logits.split(sizes))
    )
    first.views = dict(zip(views, others, strict=True))
    return first


def probe_shapes(
    net: nn.Module, stages: Mapping[str, str], image_size: tuple[int, int], model_name: str
) -> StageShapes:
    """Shapes, without the batch axis, of all stages for images of `image_size` (height, width).

    Runs `net` once on black images, in eval mode and without gradients, and leaves it bitwise
    unchanged: parameters, buffers, the mode of each module, its hooks. On the meta device this
    needs no arithmetic.

    Raises:
        UserError: if a path does not exist in `net`, a stage is not a tensor [B, ...] or is
            modified in place after it was read (in eval mode), or `net` does not accept images of
            this size.
    """
    paths = stages or {path: path for path in _some_modules(net)}
    seen, handles = _Seen(), []
    try:
        for stage, path in paths.items():
            handles.append(_hook(net, stage, path, seen, model_name))
        with eval_mode(net), torch.no_grad():
            net(_black(net, image_size))
    except RuntimeError as error:
        size, why = (
            "x".join(map(str, (3, *image_size))),
            message_lines(error)[0] + tracebacks.place(error),
        )
        raise UserError(f"{model_name} does not accept images of size {size}: {why}") from error
    finally:
        for handle in handles:
            handle.remove()
    if not stages:
        return StageShapes(model_name, {}, {}, modules=filter(seen.is_stage, paths))
    shapes = {stage: seen.shape(stage, path, model_name) for stage, path in stages.items()}
    return StageShapes(model_name, shapes, stages)


_MODULES = 24  # most modules listed in a message, unless the network has more children


def _some_modules(net: nn.Module) -> list[str]:
    """Paths of a network's modules, level by level, as long as they are few."""
    levels = defaultdict(list)
    for path, _ in net.named_modules():
        levels[path.count(".")].append(path)
    found = [path for path in levels.pop(0) if path]
    for level in levels.values():
        if len(found) + len(level) > _MODULES:
            break
        found += level
    return found


_BATCH = 2  # not 1, to distinguish the batch dimension from singleton dimensions


class _Seen(dict):
    """Features with their tensor version when read; in-place operations increment the version."""

    def __setitem__(self, stage: str, feature: object) -> None:
        version = feature._version if isinstance(feature, Tensor) else None
        super().__setitem__(stage, (feature, version))

    def shape(self, stage: str, path: str, model_name: str) -> tuple[int, ...]:
        where = f"stage '{stage}' of {model_name}: '{path}'"
        require(
            self._is_batch(stage), f"{where} is not a tensor with the batch as its first dimension"
        )
        require(
            self.is_stage(stage),
            f"{where} is modified in place after it is read; use inplace=False after it",
        )
        return tuple(self[stage][0].shape[1:])

    def is_stage(self, stage: str) -> bool:
        """Whether it is a tensor [B, ...] that has not been modified since."""
        return self._is_batch(stage) and self[stage][0]._version == self[stage][1]

    def _is_batch(self, stage: str) -> bool:
        feature, _ = self.get(stage, (None, None))
        return isinstance(feature, Tensor) and feature.dim() > 1 and len(feature) == _BATCH


def _black(net: nn.Module, image_size: tuple[int, int]) -> Tensor:
    like = next(net.parameters(), torch.empty(0))
    return torch.zeros(_BATCH, 3, *image_size, device=like.device, dtype=like.dtype)


@contextmanager
def eval_mode(net: nn.Module) -> Iterator[None]:
    """Put a network into eval mode, then restore the mode of each module."""
    # Module by module, since `net.train()` would also affect modules frozen in eval mode.
    modes = {module: module.training for module in net.modules()}
    try:
        for module in modes:
            module.training = False
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _hook(
    net: nn.Module, stage: str, path: str, features: dict[str, Tensor], model_name: str
) -> RemovableHandle:
    """Register a hook that stores `features[stage]` whenever `net` runs."""
    place = _Place.at(path)
    module = _module(net, stage, place.module, model_name)
    # partial, not a closure, so that a deep copy of the network writes to its own features.
    if place.is_input:
        # A pre-hook, since the module may modify its input in place.
        return module.register_forward_pre_hook(partial(_keep_input, features, stage, place))
    return module.register_forward_hook(partial(_keep_output, features, stage, place))


def _keep_input(
    features: dict, stage: str, place: _Place, module: nn.Module, inputs: tuple
) -> None:
    features[stage] = place.read(inputs[0]) if inputs else None


def _keep_output(
    features: dict, stage: str, place: _Place, module: nn.Module, inputs: tuple, output: object
) -> None:
    features[stage] = place.read(output)


def _module(net: nn.Module, stage: str, path: str, model_name: str) -> nn.Module:
    module = net
    found: list[str] = []
    for name in path.split("."):
        children = dict(module.named_children())
        parent = f"'{'.'.join(found)}'" if found else "the network"
        require(
            name in children,
            f"stage '{stage}' of {model_name}: no module '{path}'; "
            f"{parent} has {', '.join(children) or 'no submodules'}",
        )
        module = children[name]
        found.append(name)
    return module
