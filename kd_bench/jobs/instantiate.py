"""Objects from a job's plain configuration; what does not fit is refused before anything trains."""

from __future__ import annotations

import importlib
import inspect
import json
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from kd_bench.data.dataset import Dataset
from kd_bench.data.source import Description
from kd_bench.interfaces import Loss, LossContext, StageShapes
from kd_bench.methods.common.method import Method
from kd_bench.models.features import FeatureExtractor, probe_shapes
from kd_bench.utils.errors import UserError, require

Config = Mapping[str, Any]


# From `_target_` to an object


def import_target(target: str, where: str) -> Any:
    """The class or function behind a dotted path.

    Raises:
        UserError: where there is none; naming what its module has instead.
    """
    module_name, _, name = target.rpartition(".") if isinstance(target, str) else ("", "", "")
    require(
        bool(module_name and name),
        f"{where}: _target_ is a dotted path to a class, like my_method.Mine; got {target}",
    )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there; something that it imports is not
        raise UserError(f"{where}: there is no module {error.name} ({target})") from None
    if not hasattr(module, name):
        own = [n for n, v in vars(module).items() if getattr(v, "__module__", "") == module_name]
        raise UserError(f"{where}: there is no {target}; {module_name} has {', '.join(own)}")
    return getattr(module, name)


def from_target(arguments: Config, where: str, *positional: Any, **given: Any) -> Any:
    """Call `arguments["_target_"]` with `positional` and `given`, and with the rest of `arguments`.

    Raises:
        UserError: for an argument that the target does not take, lacks, or that has a wrong type.
    """
    arguments = dict(arguments)
    require("_target_" in arguments, f"{where} has no _target_ (a dotted path to a class)")
    target = import_target(arguments.pop("_target_"), where)
    _check_arguments(target, arguments, len(positional), given, where)
    return target(*positional, **given, **arguments)


def _check_arguments(
    target: Callable, arguments: Config, positional: int, given: Config, where: str
) -> None:
    parameters = dict(list(inspect.signature(target).parameters.items())[positional:])
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    own = {
        name: parameter
        for name, parameter in parameters.items()
        if name not in given
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    unknown = [name for name in arguments if name not in own]
    if unknown and not takes_any:
        takes = ", ".join(own) or "no arguments"
        raise UserError(f"{where}: unknown '{unknown[0]}'; {target.__name__} takes {takes}")
    missing = [n for n, p in own.items() if p.default is p.empty and n not in arguments]
    require(not missing, f"{where}: {target.__name__} needs a value for {', '.join(missing)}")
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    for name, value in arguments.items():
        if not _fits(value, hints.get(name)):
            kind = getattr(hints[name], "__name__", hints[name])
            raise UserError(f"{where}: {name} must be of type {kind}, got {value!r}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value has a simple type; other hints are the target's own to check."""
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint) if hint in (bool, str) else True


def to_dataclass(kind: type, values: Config) -> Any:
    """A schema's dataclass from plain values, names of enums turned into their members."""
    hints = typing.get_type_hints(kind)
    converted = {
        field.name: hints[field.name](values[field.name])
        if isinstance(hints[field.name], type) and issubclass(hints[field.name], Enum)
        else values[field.name]
        for field in fields(kind)
        if field.name in values
    }
    return kind(**converted)


# The parts of a job


def build_dataset(config: Config) -> Dataset:
    """The dataset of a job, not loaded yet."""
    where = f"dataset '{config['name']}'"
    return Dataset(
        from_target(config["source"], where),
        pad=config["pad"],
        padding=config["padding"],
        flip=config["flip"],
        mean=config["mean"],
        std=config["std"],
        validation=config["validation"],
    )


def describe_dataset(config: Config) -> Description:
    """What is known of a dataset without loading it; looked up once for the jobs of a process."""
    return _describe(json.dumps(config))


@lru_cache(maxsize=32)  # a folder of images is listed for it
def _describe(config: str) -> Description:
    return build_dataset(json.loads(config)).describe()


@dataclass
class Network:
    """A network, its table of stages, and the name that messages call it by."""

    net: nn.Module
    stages: dict[str, str]
    name: str

    def shapes(self, image_size: tuple[int, int]) -> StageShapes:
        """Shapes of all its stages."""
        return probe_shapes(self.net, self.stages, image_size, self.name)

    def extractor(self, stages: Iterable[str]) -> FeatureExtractor:
        """The network with its answers as an `Output` with the stages `stages`."""
        return FeatureExtractor(self.net, self.stages, tuple(stages), self.name)


def build_network(config: Config, num_classes: int) -> Network:
    """A network, freshly initialised from PyTorch's current random state."""
    where = f"model '{config['name']}'"
    net = from_target(config["net"], where, num_classes=num_classes)
    stages = config.get("stages") or getattr(net, "stages", None)
    require(
        stages is not None, f"{where}: give model.stages, a table from stage names to module paths"
    )
    return Network(net, dict(stages), config["name"])


def loss_classes(config: Config) -> dict[str, type[Loss]]:
    """The class of each loss of a method, by the loss's name."""
    found = {}
    for name, arguments in config["losses"].items():
        where = f"method '{config['name']}', loss '{name}'"
        require(
            isinstance(arguments, Mapping) and "_target_" in arguments,
            f"{where} has no _target_ (a dotted path to a class)",
        )
        found[name] = import_target(arguments["_target_"], where)
        is_loss = inspect.isclass(found[name]) and issubclass(found[name], Loss)
        require(is_loss, f"{where}: {arguments['_target_']} is no kd_bench.interfaces.Loss")
    return found


def build_method(config: Config, context: LossContext) -> Method:
    """A method with its adapters and memories, made from the shapes in `context`."""
    losses = {
        name: from_target(arguments, f"method '{config['name']}', loss '{name}'", context)
        for name, arguments in config["losses"].items()
    }
    try:
        return Method(losses, config["weights"], config["ramp_epochs"], config["init"]["weights"])
    except UserError as error:
        raise UserError(f"method '{config['name']}': {error}") from None


# Identity


# The check before anything trains


def meta_network(config: Config, data: Description) -> tuple[Network, StageShapes]:
    """A network without weights and the shapes of its stages; made once for the jobs of a process.

    It belongs to all of them: look, and change nothing.
    """
    return _meta_network(json.dumps(config), data)


@lru_cache(maxsize=32)  # to build a deep network and to ask it takes a while
def _meta_network(config: str, data: Description) -> tuple[Network, StageShapes]:
    with torch.device("meta"):
        made = build_network(json.loads(config), data.num_classes)
        return made, made.shapes((data.height, data.width))
